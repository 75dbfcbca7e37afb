/* Owns the field tags of init's configuration. */
#include "wire/init_config.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "wire/tlv.h"

enum { CONFIG_SIZE_MAX = 4096 };

enum init_tag {
    TAG_ID = 1,
    TAG_NONCE,
    TAG_UID,
    TAG_GID,
    TAG_OPEN_FILES,
    TAG_FILE_SIZE,
    TAG_LIFETIME,
    TAG_ORPHAN,
    TAG_LISTEN_FD,
    TAG_SETUP_FD,
    TAG_USERNS_FD,
    TAG_CGROUP_MODE,
    TAG_PROCS_FD,
    TAG_PIDS_MAX_FD,
    TAG_KILL_FD,
    TAG_MEMORY_DIR_FD,
    TAG_PIDS_DIR_FD,
    TAG_CPU_DIR_FD,
    TAG_CPUACCT_DIR_FD,
    TAG_OOM_EVENT_FD,
    TAG_PIDS_MAX,
    TAG_PROFILE,
    TAG_FAULT,
    TAG_FILE_IDLE,
    TAG_SECRET,
    TAG_NESTS,
};

void init_config_clear(struct init_config *config)
{
    memset(config, 0, sizeof(*config));
    config->listen_fd = config->setup_fd = config->userns_fd = -1;
    config->pids_max_fd = config->kill_fd = config->oom_event_fd = -1;
    config->memory_dir_fd = config->pids_dir_fd = -1;
    config->cpu_dir_fd = config->cpuacct_dir_fd = -1;
    for (size_t i = 0; i < INIT_PROCS_MAX; i++)
        config->procs_fds[i] = -1;
}

static void put_fd(struct tlv_writer *writer, uint16_t tag, int fd)
{
    if (fd >= 0)
        tlv_put_u64(writer, tag, (uint64_t)fd);
}

int init_config_encode(const struct init_config *config, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_str(&writer, TAG_ID, config->id);
    tlv_put_bytes(&writer, TAG_NONCE, config->nonce, sizeof(config->nonce));
    tlv_put_u64(&writer, TAG_UID, config->uid);
    tlv_put_u64(&writer, TAG_GID, config->gid);
    tlv_put_u64(&writer, TAG_OPEN_FILES, config->open_files_max);
    tlv_put_u64(&writer, TAG_PIDS_MAX, config->pids_max);
    tlv_put_u64(&writer, TAG_FILE_SIZE, config->file_size_max);
    tlv_put_u64(&writer, TAG_LIFETIME, config->lifetime_ms);
    tlv_put_u64(&writer, TAG_ORPHAN, config->orphan_ms);
    if (config->file_idle_ms > 0)
        tlv_put_u64(&writer, TAG_FILE_IDLE, config->file_idle_ms);
    tlv_put_u64(&writer, TAG_PROFILE, (uint64_t)config->profile);
    if (config->fault[0] != '\0')
        tlv_put_str(&writer, TAG_FAULT, config->fault);
    if (config->carried)
        tlv_put_bytes(&writer, TAG_SECRET, config->secret, sizeof(config->secret));
    if (config->nests)
        tlv_put_u64(&writer, TAG_NESTS, 1);
    tlv_put_u64(&writer, TAG_CGROUP_MODE, (uint64_t)config->cgroup_mode);
    put_fd(&writer, TAG_LISTEN_FD, config->listen_fd);
    put_fd(&writer, TAG_SETUP_FD, config->setup_fd);
    put_fd(&writer, TAG_USERNS_FD, config->userns_fd);
    for (size_t i = 0; i < config->procs_count; i++)
        put_fd(&writer, TAG_PROCS_FD, config->procs_fds[i]);
    put_fd(&writer, TAG_PIDS_MAX_FD, config->pids_max_fd);
    put_fd(&writer, TAG_KILL_FD, config->kill_fd);
    put_fd(&writer, TAG_MEMORY_DIR_FD, config->memory_dir_fd);
    put_fd(&writer, TAG_PIDS_DIR_FD, config->pids_dir_fd);
    put_fd(&writer, TAG_CPU_DIR_FD, config->cpu_dir_fd);
    put_fd(&writer, TAG_CPUACCT_DIR_FD, config->cpuacct_dir_fd);
    put_fd(&writer, TAG_OOM_EVENT_FD, config->oom_event_fd);
    return tlv_end(&writer, err);
}

/* Where a number goes; NULL for a tag that is no plain number or that we do not know. */
static uint64_t *number_place(struct init_config *config, uint16_t tag)
{
    switch ((enum init_tag)tag) {
    case TAG_FILE_SIZE:
        return &config->file_size_max;
    case TAG_LIFETIME:
        return &config->lifetime_ms;
    case TAG_ORPHAN:
        return &config->orphan_ms;
    case TAG_FILE_IDLE:
        return &config->file_idle_ms;
    default:
        return NULL;
    }
}

static uint32_t *small_place(struct init_config *config, uint16_t tag)
{
    switch ((enum init_tag)tag) {
    case TAG_UID:
        return &config->uid;
    case TAG_GID:
        return &config->gid;
    case TAG_OPEN_FILES:
        return &config->open_files_max;
    case TAG_PIDS_MAX:
        return &config->pids_max;
    default:
        return NULL;
    }
}

static int *fd_place(struct init_config *config, uint16_t tag)
{
    switch ((enum init_tag)tag) {
    case TAG_LISTEN_FD:
        return &config->listen_fd;
    case TAG_SETUP_FD:
        return &config->setup_fd;
    case TAG_USERNS_FD:
        return &config->userns_fd;
    case TAG_PIDS_MAX_FD:
        return &config->pids_max_fd;
    case TAG_KILL_FD:
        return &config->kill_fd;
    case TAG_MEMORY_DIR_FD:
        return &config->memory_dir_fd;
    case TAG_PIDS_DIR_FD:
        return &config->pids_dir_fd;
    case TAG_CPU_DIR_FD:
        return &config->cpu_dir_fd;
    case TAG_CPUACCT_DIR_FD:
        return &config->cpuacct_dir_fd;
    case TAG_OOM_EVENT_FD:
        return &config->oom_event_fd;
    case TAG_PROCS_FD:
        return config->procs_count < INIT_PROCS_MAX ? &config->procs_fds[config->procs_count++]
                                                    : NULL;
    default:
        return NULL;
    }
}

static int decode_number(const struct tlv_field *field, struct init_config *config, struct err *err)
{
    uint64_t *number = number_place(config, field->tag);
    uint32_t *small = number ? NULL : small_place(config, field->tag);
    int *fd = number || small ? NULL : fd_place(config, field->tag);
    if (!number && !small && !fd && field->tag != TAG_CGROUP_MODE && field->tag != TAG_PROFILE)
        return 0;
    uint64_t value = 0;
    int result = tlv_u64(field, &value, err);
    if (result != 0)
        return result;
    if (number)
        *number = value;
    else if (value > INT32_MAX)
        return err_set(err, ERR_PROTOCOL, "field %u is out of range", field->tag);
    else if (small)
        *small = (uint32_t)value;
    else if (fd)
        *fd = (int)value;
    else if (field->tag == TAG_CGROUP_MODE && value <= INIT_CGROUP_SEEN)
        config->cgroup_mode = (enum init_cgroup_mode)value;
    else if (field->tag == TAG_PROFILE && value <= INIT_PROFILE_CONTAINER)
        config->profile = (enum init_profile)value;
    else
        return err_set(err, ERR_PROTOCOL, "%s %d",
                       field->tag == TAG_PROFILE ? "profile" : "cgroup mode", (int)value);
    return 0;
}

int init_config_decode(const void *data, size_t size, struct init_config *config, struct err *err)
{
    struct init_config decoded;
    init_config_clear(&decoded);
    struct tlv_reader reader;
    struct tlv_field field;
    int result = 0;
    tlv_open(&reader, data, size);
    while ((result = tlv_next(&reader, &field, err)) > 0) {
        if (field.tag == TAG_ID) {
            result = tlv_copy_str(&field, decoded.id, sizeof(decoded.id), err);
        } else if (field.tag == TAG_FAULT) {
            result = tlv_copy_str(&field, decoded.fault, sizeof(decoded.fault), err);
        } else if (field.tag == TAG_NONCE) {
            result = tlv_copy_bytes(&field, decoded.nonce, sizeof(decoded.nonce), err);
        } else if (field.tag == TAG_SECRET) {
            result = tlv_copy_bytes(&field, decoded.secret, sizeof(decoded.secret), err);
            decoded.carried = true;
        } else if (field.tag == TAG_NESTS) {
            decoded.nests = true;
        } else {
            result = decode_number(&field, &decoded, err);
        }
        if (result < 0)
            return result;
    }
    if (result == 0)
        *config = decoded;
    return result;
}

int init_config_read(int fd, struct init_config *config, struct err *err)
{
    uint8_t bytes[CONFIG_SIZE_MAX + 1];
    size_t used = 0;
    ssize_t got = 1;
    while (got > 0 && used < sizeof(bytes)) {
        got = read(fd, bytes + used, sizeof(bytes) - used);
        used += got > 0 ? (size_t)got : 0;
    }
    int result = 0;
    if (got < 0)
        result = err_sys(err, errno, "read the configuration");
    else if (used > CONFIG_SIZE_MAX)
        result = err_set(err, ERR_PROTOCOL, "a configuration of more than %d bytes",
                         (int)CONFIG_SIZE_MAX);
    else
        result = init_config_decode(bytes, used, config, err);
    explicit_bzero(bytes, sizeof(bytes)); /* the secret */
    return result;
}
