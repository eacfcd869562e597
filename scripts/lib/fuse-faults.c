// A file system that fails on demand, for tests: a FUSE passthrough. FF_ROOT=DIR (what it shows) FF_CTL=FILE fuse-faults -f MOUNTPOINT
// The file is read at every call; its lines are "operation errno probability delay_ms", as "read 5 1 0" or "open 0 0.5 200".
// Stopped by SIGSTOP it hangs as a dead NFS server does.
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char *root, *ctl;

/** 0, or the negative errno that the call has to end with. */
static int fault(const char *operation) {
  FILE *file = fopen(ctl, "r");
  if (!file) return 0;
  char name[32];
  int error, delay, result = 0;
  double probability;
  while (fscanf(file, "%31s %d %lf %d", name, &error, &probability, &delay) == 4) {
    if (strcmp(name, operation) != 0 || drand48() >= probability) continue;
    if (delay) usleep(delay * 1000);
    if (error) {
      result = -error;
      break;
    }
  }
  fclose(file);
  return result;
}

#define FAULT(operation)                   \
  do {                                     \
    int result_ = fault(operation);        \
    if (result_) return result_;           \
  } while (0)
#define PATH(name, of) \
  char name[4096];     \
  snprintf(name, sizeof name, "%s%s", root, of)

static int ff_getattr(const char *path, struct stat *status, struct fuse_file_info *info) {
  (void)info;
  PATH(real, path);
  FAULT("getattr");
  return lstat(real, status) ? -errno : 0;
}
static int ff_open(const char *path, struct fuse_file_info *info) {
  PATH(real, path);
  FAULT("open");
  int file = open(real, info->flags & ~O_NONBLOCK);
  if (file < 0) return -errno;
  info->fh = file;
  return 0;
}
static int ff_create(const char *path, mode_t mode, struct fuse_file_info *info) {
  PATH(real, path);
  FAULT("create");
  int file = open(real, info->flags | O_CREAT, mode);
  if (file < 0) return -errno;
  info->fh = file;
  return 0;
}
static int ff_read(const char *path, char *to, size_t bytes, off_t offset, struct fuse_file_info *info) {
  (void)path;
  FAULT("read");
  ssize_t result = pread(info->fh, to, bytes, offset);
  return result < 0 ? -errno : result;
}
static int ff_write(const char *path, const char *from, size_t bytes, off_t offset, struct fuse_file_info *info) {
  (void)path;
  FAULT("write");
  ssize_t result = pwrite(info->fh, from, bytes, offset);
  return result < 0 ? -errno : result;
}
static int ff_release(const char *path, struct fuse_file_info *info) {
  (void)path;
  close(info->fh);
  return 0;
}
static int ff_fsync(const char *path, int onlyData, struct fuse_file_info *info) {
  (void)path;
  (void)onlyData;
  FAULT("fsync");
  return fsync(info->fh) ? -errno : 0;
}
static int ff_unlink(const char *path) {
  PATH(real, path);
  FAULT("unlink");
  return unlink(real) ? -errno : 0;
}
static int ff_mkdir(const char *path, mode_t mode) {
  PATH(real, path);
  FAULT("mkdir");
  return mkdir(real, mode) ? -errno : 0;
}
static int ff_rmdir(const char *path) {
  PATH(real, path);
  return rmdir(real) ? -errno : 0;
}
static int ff_rename(const char *from, const char *to, unsigned flags) {
  PATH(realFrom, from);
  PATH(realTo, to);
  FAULT("rename");
  return renameat2(AT_FDCWD, realFrom, AT_FDCWD, realTo, flags) ? -errno : 0;
}
static int ff_readdir(const char *path, void *to, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
                      enum fuse_readdir_flags flags) {
  (void)offset;
  (void)info;
  (void)flags;
  PATH(real, path);
  FAULT("readdir");
  DIR *folder = opendir(real);
  if (!folder) return -errno;
  struct dirent *entry;
  while ((entry = readdir(folder))) fill(to, entry->d_name, 0, 0, 0);
  closedir(folder);
  return 0;
}
static int ff_statfs(const char *path, struct statvfs *status) {
  (void)path;
  FAULT("statfs");
  return statvfs(root, status) ? -errno : 0;
}
static int ff_truncate(const char *path, off_t bytes, struct fuse_file_info *info) {
  (void)info;
  PATH(real, path);
  return truncate(real, bytes) ? -errno : 0;
}
static int ff_chmod(const char *path, mode_t mode, struct fuse_file_info *info) {
  (void)info;
  PATH(real, path);
  return chmod(real, mode) ? -errno : 0;
}
static int ff_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info) {
  (void)info;
  PATH(real, path);
  FAULT("utimens");
  return utimensat(AT_FDCWD, real, times, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static const struct fuse_operations operations = {
    .getattr = ff_getattr, .open = ff_open,       .create = ff_create, .read = ff_read,
    .write = ff_write,     .release = ff_release, .fsync = ff_fsync,   .unlink = ff_unlink,
    .mkdir = ff_mkdir,     .rmdir = ff_rmdir,     .rename = ff_rename, .readdir = ff_readdir,
    .statfs = ff_statfs,   .truncate = ff_truncate, .chmod = ff_chmod, .utimens = ff_utimens,
};

int main(int count, char **values) {
  root = getenv("FF_ROOT");
  ctl = getenv("FF_CTL");
  if (!root || !ctl) {
    fprintf(stderr, "FF_ROOT and FF_CTL must be set\n");
    return 2;
  }
  return fuse_main(count, values, &operations, 0);
}
