/* Owns the byte layout and the field tags of the engine protocol. */
#include "wire/engine_msg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/msg_head.h"

enum engine_tag {
    TAG_ERROR_KIND = 1,
    TAG_ERROR_ERRNO,
    TAG_ERROR_MESSAGE,
    TAG_ERROR_PUBLIC,
    TAG_ERROR_RETRY,
    TAG_ID,
    TAG_IMAGE,
    TAG_PROFILE,
    TAG_MEMORY,
    TAG_STORAGE,
    TAG_CPU,
    TAG_PIDS,
    TAG_FILES,
    TAG_LIFETIME,
    TAG_ORPHAN,
    TAG_NAME,
    TAG_VERSION,
    TAG_CAPABILITIES,
    TAG_CGROUP_MODE,
    TAG_UNAVAILABLE,
    TAG_STATE,
    TAG_NONCE,
    TAG_LISTED,
    TAG_DISK,
    TAG_KEEP_FILES,
    TAG_IMAGES,
    TAG_MISSING,
    TAG_MORE,
    TAG_KERNEL,
    TAG_LAYER,
    TAG_LAYER_SIZE, /* of the layer before it */
    TAG_SIZE_MAX,
    TAG_ENTRIES_MAX,
    TAG_GPUS,
    TAG_FULL,
    TAG_RUNTIME,              /* of a sandbox; in a PROBE reply: the next one */
    TAG_RUNTIME_VERSION,      /* of the runtime before it */
    TAG_RUNTIME_CAPABILITIES, /* the same */
    TAG_RUNTIME_WARNING,      /* the same */
    TAG_CAUSE,
    TAG_IMAGE_IDS,
    TAG_RUNTIME_MEMORY, /* of the runtime before it */
};

static const struct msg_protocol protocol = {.name = "engine",
                                             .version = ENGINE_MSG_VERSION,
                                             .op_count = ENGINE_OP_COUNT,
                                             .message_max = ENGINE_MSG_MAX,
                                             .tag_kind = TAG_ERROR_KIND,
                                             .tag_errno = TAG_ERROR_ERRNO,
                                             .tag_message = TAG_ERROR_MESSAGE,
                                             .tag_public = TAG_ERROR_PUBLIC,
                                             .tag_retry = TAG_ERROR_RETRY};

const char *engine_cap_name(unsigned index)
{
    static const char *const names[ENGINE_CAP_COUNT] = {
        "memory",      "cpu",    "pids",     "storage", "isolated", "idmap",
        "stop",        "freeze", "snapshot", "stats",   "disk",     "container",
        "private_ids", "limit",  "zygote",   "layers",  "gpu",      "full",
    };
    return index < ENGINE_CAP_COUNT ? names[index] : NULL;
}

static void put_create(struct tlv_writer *writer, const struct engine_create *create)
{
    tlv_put_str(writer, TAG_ID, create->id);
    tlv_put_str(writer, TAG_IMAGE, create->image);
    tlv_put_str(writer, TAG_PROFILE, create->profile);
    tlv_put_u64(writer, TAG_MEMORY, create->memory_bytes);
    tlv_put_u64(writer, TAG_STORAGE, create->storage_bytes);
    tlv_put_u64(writer, TAG_CPU, create->cpu_millis);
    tlv_put_u64(writer, TAG_PIDS, create->pids_max);
    tlv_put_u64(writer, TAG_FILES, create->open_files_max);
    tlv_put_u64(writer, TAG_LIFETIME, create->lifetime_ms);
    tlv_put_u64(writer, TAG_ORPHAN, create->orphan_ms);
    tlv_put_u64(writer, TAG_DISK, create->disk ? 1 : 0);
    tlv_put_u64(writer, TAG_KEEP_FILES, create->keep_files ? 1 : 0);
    if (create->kernel[0] != '\0')
        tlv_put_str(writer, TAG_KERNEL, create->kernel);
    if (create->gpu_count > 0)
        tlv_put_u64(writer, TAG_GPUS, create->gpu_count);
    if (create->runtime[0] != '\0')
        tlv_put_str(writer, TAG_RUNTIME, create->runtime);
}

static void put_info(struct tlv_writer *writer, const struct engine_info *info)
{
    tlv_put_str(writer, TAG_NAME, info->name);
    tlv_put_str(writer, TAG_VERSION, info->version);
    tlv_put_u64(writer, TAG_CAPABILITIES, info->capabilities);
    tlv_put_str(writer, TAG_CGROUP_MODE, info->cgroup_mode);
    tlv_put_u64(writer, TAG_MEMORY, info->memory_bytes);
    tlv_put_u64(writer, TAG_CPU, info->cpu_millis);
    tlv_put_u64(writer, TAG_STORAGE, info->storage_bytes);
    tlv_put_u64(writer, TAG_DISK, info->disk_bytes);
    tlv_put_str(writer, TAG_IMAGES, info->images);
    if (info->image_ids[0] != '\0')
        tlv_put_str(writer, TAG_IMAGE_IDS, info->image_ids);
    tlv_put_str(writer, TAG_MISSING, info->missing);
    tlv_put_str(writer, TAG_UNAVAILABLE, info->unavailable);
    if (info->gpu_count > 0)
        tlv_put_u64(writer, TAG_GPUS, info->gpu_count);
    for (size_t i = 0; i < info->runtime_count; i++) {
        const struct engine_runtime *runtime = &info->runtimes[i];
        tlv_put_str(writer, TAG_RUNTIME, runtime->name);
        tlv_put_str(writer, TAG_RUNTIME_VERSION, runtime->version);
        tlv_put_u64(writer, TAG_RUNTIME_CAPABILITIES, runtime->capabilities);
        tlv_put_str(writer, TAG_RUNTIME_WARNING, runtime->warning);
        if (runtime->memory_bytes > 0)
            tlv_put_u64(writer, TAG_RUNTIME_MEMORY, runtime->memory_bytes);
    }
}

static void put_layer_request(struct tlv_writer *writer, const struct engine_msg *msg)
{
    tlv_put_str(writer, TAG_ID, msg->id);
    tlv_put_str(writer, TAG_LAYER, msg->layer.name);
    if (msg->size_max_bytes != 0)
        tlv_put_u64(writer, TAG_SIZE_MAX, msg->size_max_bytes);
    if (msg->entries_max != 0)
        tlv_put_u64(writer, TAG_ENTRIES_MAX, msg->entries_max);
}

static void put_named(struct tlv_writer *writer, const struct engine_msg *msg)
{
    tlv_put_str(writer, TAG_ID, msg->id);
    if (msg->op == ENGINE_OP_NETWORK)
        tlv_put_u64(writer, TAG_FULL, msg->full ? 1 : 0);
    if (msg->op == ENGINE_OP_EVENT_GONE && msg->cause != KILL_NONE)
        tlv_put_u64(writer, TAG_CAUSE, (uint64_t)msg->cause);
}

static void put_layers(struct tlv_writer *writer, const struct engine_msg *msg)
{
    for (size_t i = 0; i < msg->layer_count; i++) {
        tlv_put_str(writer, TAG_LAYER, msg->layers[i].name);
        tlv_put_u64(writer, TAG_LAYER_SIZE, msg->layers[i].size_bytes);
    }
    if (msg->more)
        tlv_put_u64(writer, TAG_MORE, 1);
}

static void put_reply(struct tlv_writer *writer, const struct engine_msg *msg)
{
    switch (msg->op & ~ENGINE_REPLY) {
    case ENGINE_OP_PROBE:
        put_info(writer, &msg->info);
        break;
    case ENGINE_OP_INSPECT:
        tlv_put_u64(writer, TAG_STATE, (uint64_t)msg->state);
        tlv_put_bytes(writer, TAG_NONCE, msg->nonce, sizeof(msg->nonce));
        break;
    case ENGINE_OP_CREATE:
    case ENGINE_OP_START:
        tlv_put_bytes(writer, TAG_NONCE, msg->nonce, sizeof(msg->nonce));
        break;
    case ENGINE_OP_LIST:
        for (size_t i = 0; i < msg->id_count; i++)
            tlv_put_str(writer, TAG_LISTED, msg->ids[i]);
        if (msg->more)
            tlv_put_u64(writer, TAG_MORE, 1);
        break;
    case ENGINE_OP_LAYER_IMPORT:
        tlv_put_u64(writer, TAG_LAYER_SIZE, msg->layer.size_bytes);
        break;
    case ENGINE_OP_LAYER_LIST:
        put_layers(writer, msg);
        break;
    default:
        break;
    }
}

enum { FIELD_HEADER = 8 /* of a field (tlv.h) */, NUMBER_SIZE = FIELD_HEADER + sizeof(uint64_t) };

static bool has_room(size_t count, size_t entry_size)
{
    const size_t more = NUMBER_SIZE;
    return count < (ENGINE_MSG_MAX - MSG_HEAD_SIZE - more) / entry_size;
}

bool engine_msg_list_has_room(size_t id_count)
{
    return has_room(id_count, FIELD_HEADER + SANDBOX_ID_MAX + 1);
}

bool engine_msg_layers_have_room(size_t layer_count)
{
    return has_room(layer_count, FIELD_HEADER + ENGINE_LAYER_NAME_MAX + 1 + NUMBER_SIZE);
}

/* Room for one more in an array that grows at powers of two. */
static int grow(void **array, size_t count, size_t size, struct err *err)
{
    if ((count & (count + 1)) != 0)
        return 0;
    void *grown = reallocarray(*array, 2 * (count + 1), size);
    if (!grown)
        return err_set(err, ERR_INTERNAL, "no memory for a list");
    *array = grown;
    return 0;
}

int engine_msg_add_id(struct engine_msg *msg, const char *id, struct err *err)
{
    void *ids = msg->ids;
    int result = grow(&ids, msg->id_count, sizeof(*msg->ids), err);
    if (result != 0)
        return result;
    msg->ids = ids;
    (void)snprintf(msg->ids[msg->id_count++], sizeof(*msg->ids), "%s", id);
    return 0;
}

int engine_msg_add_layer(struct engine_msg *msg, const struct engine_layer *layer, struct err *err)
{
    void *layers = msg->layers;
    int result = grow(&layers, msg->layer_count, sizeof(*msg->layers), err);
    if (result != 0)
        return result;
    msg->layers = layers;
    msg->layers[msg->layer_count++] = *layer;
    return 0;
}

/* Of two ids, or of two layers: both begin with their text. */
static int compare(const void *left, const void *right)
{
    return strcmp(left, right);
}

void engine_msg_end_list(struct engine_msg *msg)
{
    if (msg->id_count > 0)
        qsort(msg->ids, msg->id_count, sizeof(*msg->ids), compare);
    if (msg->layer_count > 0)
        qsort(msg->layers, msg->layer_count, sizeof(*msg->layers), compare);
    for (; msg->id_count > 0 && !engine_msg_list_has_room(msg->id_count - 1); msg->more = true)
        msg->id_count--;
    for (; msg->layer_count > 0 && !engine_msg_layers_have_room(msg->layer_count - 1);
         msg->more = true)
        msg->layer_count--;
}

int engine_msg_encode(const struct engine_msg *msg, struct buf *out, struct err *err)
{
    int result = msg_head_put(&protocol, msg->op, msg->request_id, out, err);
    if (result != 0)
        return result;
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    if (msg->error.kind != ERR_NONE)
        msg_error_put(&protocol, &writer, &msg->error);
    else if ((msg->op & ENGINE_REPLY) != 0)
        put_reply(&writer, msg);
    else if (msg->op == ENGINE_OP_CREATE || msg->op == ENGINE_OP_START ||
             msg->op == ENGINE_OP_LIMIT)
        put_create(&writer, &msg->create);
    else if (msg->op >= ENGINE_OP_LAYER_IMPORT && msg->op <= ENGINE_OP_LAYER_LIST)
        put_layer_request(&writer, msg);
    else
        put_named(&writer, msg);
    return tlv_end(&writer, err);
}

static int list_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    char id[SANDBOX_ID_MAX + 1];
    if (msg->id_count >= ENGINE_LIST_MAX)
        return err_set(err, ERR_PROTOCOL, "a list of more than %d ids", ENGINE_LIST_MAX);
    int result = tlv_copy_str(field, id, sizeof(id), err);
    return result == 0 ? engine_msg_add_id(msg, id, err) : result;
}

/* The name of the layer that is meant, or of the next one of a list. */
static int layer_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    if (msg->op != (ENGINE_OP_LAYER_LIST | ENGINE_REPLY))
        return tlv_copy_str(field, msg->layer.name, sizeof(msg->layer.name), err);
    if (msg->layer_count >= ENGINE_LIST_MAX)
        return err_set(err, ERR_PROTOCOL, "a list of more than %d layers", ENGINE_LIST_MAX);
    struct engine_layer layer = {.name = ""};
    int result = tlv_copy_str(field, layer.name, sizeof(layer.name), err);
    return result == 0 ? engine_msg_add_layer(msg, &layer, err) : result;
}

static int layer_size_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    uint64_t *size = &msg->layer.size_bytes;
    if (msg->layer_count > 0)
        size = &msg->layers[msg->layer_count - 1].size_bytes;
    return tlv_u64(field, size, err);
}

static int id_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    int result = tlv_copy_str(field, msg->id, sizeof(msg->id), err);
    if (result == 0)
        memcpy(msg->create.id, msg->id, sizeof(msg->id));
    return result;
}

static int state_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    uint32_t number = 0;
    int result = tlv_u32(field, &number, err);
    if (result == 0 && (number < ENGINE_STATE_CREATING || number > ENGINE_STATE_STOPPED))
        result = err_set(err, ERR_PROTOCOL, "sandbox state %u", number);
    if (result == 0)
        msg->state = (enum engine_state)number;
    return result;
}

static int cause_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    uint32_t number = 0;
    int result = tlv_u32(field, &number, err);
    if (result == 0)
        msg->cause = number == KILL_OOM ? KILL_OOM : KILL_NONE;
    return result;
}

/* The next one of the host's runtimes, or the one that a sandbox is to have. More than there is
 * room for are of a later version. */
static int runtime_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    if (msg->op != (ENGINE_OP_PROBE | ENGINE_REPLY))
        return tlv_copy_str(field, msg->create.runtime, sizeof(msg->create.runtime), err);
    struct engine_info *info = &msg->info;
    if (info->runtime_count == ENGINE_RUNTIMES_MAX)
        return err_set(err, ERR_PROTOCOL, "more than %d runtimes", ENGINE_RUNTIMES_MAX);
    char *name = info->runtimes[info->runtime_count++].name;
    return tlv_copy_str(field, name, ENGINE_NAME_MAX, err);
}

/* What is said of the runtime that was named last. */
static int runtime_detail(const struct tlv_field *field, struct engine_info *info, struct err *err)
{
    if (info->runtime_count == 0)
        return err_set(err, ERR_PROTOCOL, "field %u is of no runtime", field->tag);
    struct engine_runtime *runtime = &info->runtimes[info->runtime_count - 1];
    if (field->tag == TAG_RUNTIME_VERSION)
        return tlv_copy_str(field, runtime->version, sizeof(runtime->version), err);
    if (field->tag == TAG_RUNTIME_WARNING)
        return tlv_copy_str(field, runtime->warning, sizeof(runtime->warning), err);
    uint64_t *number =
        field->tag == TAG_RUNTIME_MEMORY ? &runtime->memory_bytes : &runtime->capabilities;
    return tlv_u64(field, number, err);
}

/* What a PROBE reply alone has. */
static int info_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    struct engine_info *info = &msg->info;
    switch ((enum engine_tag)field->tag) {
    case TAG_NAME:
        return tlv_copy_str(field, info->name, sizeof(info->name), err);
    case TAG_VERSION:
        return tlv_copy_str(field, info->version, sizeof(info->version), err);
    case TAG_CGROUP_MODE:
        return tlv_copy_str(field, info->cgroup_mode, sizeof(info->cgroup_mode), err);
    case TAG_IMAGES:
        return tlv_copy_str(field, info->images, sizeof(info->images), err);
    case TAG_IMAGE_IDS:
        return tlv_copy_str(field, info->image_ids, sizeof(info->image_ids), err);
    case TAG_MISSING:
        return tlv_copy_str(field, info->missing, sizeof(info->missing), err);
    case TAG_UNAVAILABLE:
        return tlv_copy_str(field, info->unavailable, sizeof(info->unavailable), err);
    case TAG_CAPABILITIES:
        return tlv_u64(field, &info->capabilities, err);
    case TAG_RUNTIME:
        return runtime_field(field, msg, err);
    case TAG_RUNTIME_VERSION:
    case TAG_RUNTIME_CAPABILITIES:
    case TAG_RUNTIME_WARNING:
    case TAG_RUNTIME_MEMORY:
        return runtime_detail(field, info, err);
    default:
        return 0; /* of a later version */
    }
}

static int message_field(const struct tlv_field *field, struct engine_msg *msg, struct err *err)
{
    struct engine_create *create = &msg->create;
    struct engine_info *info = &msg->info;
    bool probe = msg->op == (ENGINE_OP_PROBE | ENGINE_REPLY);
    switch ((enum engine_tag)field->tag) {
    case TAG_ID:
        return id_field(field, msg, err);
    case TAG_IMAGE:
        return tlv_copy_str(field, create->image, sizeof(create->image), err);
    case TAG_PROFILE:
        return tlv_copy_str(field, create->profile, sizeof(create->profile), err);
    case TAG_MEMORY:
        return tlv_u64(field, probe ? &info->memory_bytes : &create->memory_bytes, err);
    case TAG_STORAGE:
        return tlv_u64(field, probe ? &info->storage_bytes : &create->storage_bytes, err);
    case TAG_CPU:
        return tlv_u32(field, probe ? &info->cpu_millis : &create->cpu_millis, err);
    case TAG_GPUS:
        return tlv_u32(field, probe ? &info->gpu_count : &create->gpu_count, err);
    case TAG_PIDS:
        return tlv_u32(field, &create->pids_max, err);
    case TAG_FILES:
        return tlv_u32(field, &create->open_files_max, err);
    case TAG_LIFETIME:
        return tlv_u64(field, &create->lifetime_ms, err);
    case TAG_ORPHAN:
        return tlv_u64(field, &create->orphan_ms, err);
    case TAG_DISK:
        return probe ? tlv_u64(field, &info->disk_bytes, err) : tlv_bool(field, &create->disk, err);
    case TAG_KEEP_FILES:
        return tlv_bool(field, &create->keep_files, err);
    case TAG_STATE:
        return state_field(field, msg, err);
    case TAG_NONCE:
        return tlv_copy_bytes(field, msg->nonce, sizeof(msg->nonce), err);
    case TAG_LISTED:
        return list_field(field, msg, err);
    case TAG_KERNEL:
        return tlv_copy_str(field, create->kernel, sizeof(create->kernel), err);
    case TAG_MORE:
        return tlv_bool(field, &msg->more, err);
    case TAG_FULL:
        return tlv_bool(field, &msg->full, err);
    case TAG_CAUSE:
        return cause_field(field, msg, err);
    default:
        return info_field(field, msg, err);
    case TAG_LAYER:
        return layer_field(field, msg, err);
    case TAG_LAYER_SIZE:
        return layer_size_field(field, msg, err);
    case TAG_SIZE_MAX:
        return tlv_u64(field, &msg->size_max_bytes, err);
    case TAG_ENTRIES_MAX:
        return tlv_u64(field, &msg->entries_max, err);
    }
}

int engine_msg_decode(const void *data, size_t size, struct engine_msg *msg, struct err *err)
{
    memset(msg, 0, sizeof(*msg));
    struct tlv_reader reader;
    struct tlv_field field;
    int result = msg_head_take(&protocol, data, size, &msg->op, &msg->request_id, &reader, err);
    if (result != 0)
        return result;
    while ((result = tlv_next(&reader, &field, err)) > 0) {
        result = msg_error_take(&protocol, &field, &msg->error, err);
        if (result == 0)
            result = message_field(&field, msg, err);
        if (result < 0)
            break;
    }
    if (result != 0)
        engine_msg_done(msg);
    return result;
}

void engine_msg_done(struct engine_msg *msg)
{
    if (!msg)
        return;
    free(msg->ids);
    free(msg->layers);
    msg->ids = NULL;
    msg->layers = NULL;
    msg->id_count = msg->layer_count = 0;
}
