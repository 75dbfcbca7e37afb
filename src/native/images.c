#include "native/images.h"
int images_open(const struct images_config *c, struct images **out, struct err *err)
{
    (void)c;
    (void)err;
    *out = NULL;
    return 0;
}
void images_free(struct images *i)
{
    (void)i;
}
int64_t images_step(struct images *i)
{
    (void)i;
    return 0;
}
int images_event_fd(const struct images *i)
{
    (void)i;
    return -1;
}
int images_take(struct images *i, const char *n, struct image_folder *o, struct err *err)
{
    (void)i;
    (void)n;
    (void)o;
    return err_public(err, ERR_BAD_INPUT, "no");
}
void images_names(const struct images *i, char *o, size_t s)
{
    (void)i;
    if (s)
        o[0] = 0;
}
