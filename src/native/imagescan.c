/* Owns the look at the operator's folder. Reads names and attributes, and no byte of an image. */
#include "native/imagescan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/mem.h"

/* An image in layers (OCI image-spec, image-layout.md, as a tar); it ends in ".tar" as well. */
static const char oci_suffix[] = ".oci.tar";
static const char *const suffixes[] = {oci_suffix, ".tar",    ".tar.gz", ".tgz",
                                       ".tar.bz2", ".tar.xz", ".tar.zst"};

/* Returns why what was looked at must not be believed, or NULL. Whoever may write to an image may
 * run code in every sandbox that comes of it. */
static const char *check_owner(const struct stat *info, char *out, size_t size)
{
    if (info->st_uid != geteuid()) {
        (void)snprintf(out, size, "belongs to user %u, not to user %u that the engine runs as",
                       info->st_uid, geteuid());
        return out;
    }
    if ((info->st_mode & 0022) != 0) {
        (void)snprintf(out, size, "may be written to by %s (mode %04o)",
                       (info->st_mode & 0002) != 0 ? "everybody" : "its group",
                       info->st_mode & 07777);
        return out;
    }
    return NULL;
}

/* The size of the image's name in the name of its file; 0: no archive. */
static size_t stem_size(const char *file)
{
    size_t size = strlen(file);
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        size_t suffix = strlen(suffixes[i]);
        if (size > suffix && strcmp(file + size - suffix, suffixes[i]) == 0)
            return size - suffix;
    }
    return 0;
}

static struct image_key key_of(const struct stat *info)
{
    return (struct image_key){
        .device = info->st_dev,
        .inode = info->st_ino,
        .size = (uint64_t)info->st_size,
        .mtime_ns = info->st_mtim.tv_sec * CLOCK_NS_PER_S + info->st_mtim.tv_nsec,
        .ctime_ns = info->st_ctim.tv_sec * CLOCK_NS_PER_S + info->st_ctim.tv_nsec,
    };
}

static void judge(const struct stat *info, struct image_file *file)
{
    size_t room = sizeof(file->refused);
    if (S_ISLNK(info->st_mode))
        (void)snprintf(file->refused, room, "is a symbolic link");
    else if (!S_ISDIR(info->st_mode) && !S_ISREG(info->st_mode))
        (void)snprintf(file->refused, room, "is neither a folder nor a file");
    else if (file->name[0] == '\0')
        (void)snprintf(file->refused, room,
                       "has a name that is not 1 to %d of the characters a-z, 0-9 and -",
                       IMAGE_NAME_MAX);
    else if (strcmp(file->name, "host") == 0)
        (void)snprintf(file->refused, room, "has the name of the built-in image \"host\"");
    else
        (void)check_owner(info, file->refused, room);
}

/* Fills file for one entry of the folder; false when it is no image. */
static bool look_at(int folder_fd, const char *entry, struct image_file *file)
{
    struct stat info;
    if (entry[0] == '.' || fstatat(folder_fd, entry, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    size_t stem = S_ISDIR(info.st_mode) ? strlen(entry) : stem_size(entry);
    if (stem == 0 && !S_ISLNK(info.st_mode))
        return false;
    if (stem == 0)
        stem = strlen(entry);
    memset(file, 0, sizeof(*file));
    (void)snprintf(file->file, sizeof(file->file), "%s", entry);
    if (stem <= IMAGE_NAME_MAX) {
        memcpy(file->name, entry, stem);
        if (!id_is_name(file->name, IMAGE_NAME_MAX))
            memset(file->name, 0, sizeof(file->name));
    }
    file->folder = S_ISDIR(info.st_mode);
    file->oci = !file->folder && strcmp(entry + stem, oci_suffix) == 0;
    file->exposed = file->folder && (info.st_mode & 0011) != 0;
    file->key = key_of(&info);
    judge(&info, file);
    return true;
}

/* Two files of one name: which one is meant is not ours to guess. */
static void refuse_doubles(struct image_file *files, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count && files[i].refused[0] == '\0'; j++) {
            if (i != j && files[i].name[0] != '\0' && strcmp(files[i].name, files[j].name) == 0)
                (void)snprintf(files[i].refused, sizeof(files[i].refused),
                               "is not the only one of its name: there is %.100s", files[j].file);
        }
    }
}

static int read_entries(int folder_fd, struct image_file *files, size_t *count, struct err *err)
{
    FD_AUTO int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        return err_sys(err, errno, "read the folder of images");
    (void)fd_take(&fd); /* the DIR's now */
    const struct dirent *entry = NULL;
    *count = 0;
    while (*count < IMAGES_MAX && (entry = readdir(dir)))
        *count += look_at(folder_fd, entry->d_name, &files[*count]) ? 1 : 0;
    (void)closedir(dir);
    return 0;
}

int imagescan_read(int folder_fd, struct image_file *files, size_t *count, struct err *err)
{
    char reason[128];
    struct stat info;
    if (fstat(folder_fd, &info) != 0)
        return err_sys(err, errno, "look at the folder of images");
    int result = read_entries(folder_fd, files, count, err);
    if (result != 0)
        return result;
    refuse_doubles(files, *count);
    for (size_t i = 0; i < *count; i++)
        files[i].exposed = files[i].exposed && (info.st_mode & 0011) != 0;
    if (!check_owner(&info, reason, sizeof(reason)))
        return 0;
    for (size_t i = 0; i < *count; i++)
        (void)snprintf(files[i].refused, sizeof(files[i].refused),
                       "is not used, since the folder of images %s", reason);
    return 0;
}

static int check_opened(int fd, bool folder, struct image_key *key, struct err *err)
{
    char reason[128];
    struct stat info;
    if (fstat(fd, &info) != 0)
        return err_sys(err, errno, "look at an image");
    if (folder ? !S_ISDIR(info.st_mode) : !S_ISREG(info.st_mode))
        return err_public(err, ERR_BAD_INPUT, "is no %s any more", folder ? "folder" : "file");
    if (check_owner(&info, reason, sizeof(reason)))
        return err_public(err, ERR_BAD_INPUT, "%s", reason);
    if (key)
        *key = key_of(&info);
    return 0;
}

int imagescan_open_folder(int folder_fd, const char *name, int *out_fd, struct err *err)
{
    FD_AUTO int fd = openat(folder_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open the image %s", name);
    int result = check_opened(fd, true, NULL, err);
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

int imagescan_open_tar(int folder_fd, const char *file, int *out_fd, struct image_key *key,
                       struct err *err)
{
    FD_AUTO int fd = openat(folder_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open the image %s", file);
    int result = check_opened(fd, false, key, err);
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}
