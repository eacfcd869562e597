// A stand-in for a mount of Lustre or Storage Scale: loaded with LD_PRELOAD, it makes a folder of any file system behave as documents say that
// those do, in the calls that the data plane makes. It is neither of them.
//   STAND_IN_ROOT    the folder
//   STAND_IN_MAGIC   f_type that statfs gives below it
//   STAND_IN_FAULTS  a file that may come and go, read at every write: "full I N" (of N OSTs number I is full; a file lies on OST inode % N),
//                    "full * N" (all), or "quota"
//   STAND_IN_LOG     gets a line for each kind of thing that was done
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define LUSTRE 0x0bd00bd0L
#define TRANSFER_BYTES_MAX (512u << 10)

static long magic(void) { return strtol(getenv("STAND_IN_MAGIC"), NULL, 0); }

static int isBelow(const char* path) {
  const char* root = getenv("STAND_IN_ROOT");
  const size_t length = strlen(root);
  return strncmp(path, root, length) == 0 && (path[length] == 0 || path[length] == '/');
}

static int isFileBelow(int file) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return isBelow(path);
}

static void note(const char* what) {
  const char* log = getenv("STAND_IN_LOG");
  const int file = log == NULL ? -1 : open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) return;
  if (write(file, what, strlen(what)) < 0) perror(log);
  close(file);
}

#define REAL(name, ...)                     \
  static __typeof__(&name) real;            \
  if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int statfs(const char* path, struct statfs* status) {
  REAL(statfs);
  const int result = real(path, status);
  char whole[PATH_MAX];
  if (result == 0 && realpath(path, whole) != NULL && isBelow(whole)) status->f_type = magic();
  return result;
}

int fstatfs(int file, struct statfs* status) {
  REAL(fstatfs);
  const int result = real(file, status);
  if (result == 0 && isFileBelow(file)) status->f_type = magic();
  return result;
}

int statfs64(const char*, struct statfs64*) __attribute__((alias("statfs")));
int fstatfs64(int, struct statfs64*) __attribute__((alias("fstatfs")));

// Lustre has no O_TMPFILE (LU-9512).
int openat(int folder, const char* path, int flags, ...) {
  REAL(openat);
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  if ((flags & O_TMPFILE) == O_TMPFILE && magic() == LUSTRE && isFileBelow(folder)) {
    note("no O_TMPFILE\n");
    errno = EOPNOTSUPP;
    return -1;
  }
  return real(folder, path, flags, mode);
}

int openat64(int, const char*, int, ...) __attribute__((alias("openat")));

// No more than 512 KiB of a transfer is done.
static int shortened(const struct iovec* parts, int count, struct iovec* fewer, const char* what) {
  size_t left = TRANSFER_BYTES_MAX;
  for (int i = 0; i < count; i++) {
    fewer[i] = parts[i];
    if (parts[i].iov_len > left) {
      note(what);
      fewer[i].iov_len = left;
      return left == 0 ? i : i + 1;
    }
    left -= parts[i].iov_len;
  }
  return count;
}

static int fault(int file) {
  const char* path = getenv("STAND_IN_FAULTS");
  FILE* faults = path == NULL ? NULL : fopen(path, "re");
  if (faults == NULL) return 0;
  char line[64] = "", which[16];
  unsigned long osts = 1;
  if (fgets(line, sizeof(line), faults) == NULL) line[0] = 0;
  fclose(faults);
  if (strncmp(line, "quota", 5) == 0) return EDQUOT;
  if (sscanf(line, "full %15s %lu", which, &osts) != 2) return 0;
  struct stat status;
  if (which[0] == '*') return ENOSPC;
  return fstat(file, &status) == 0 && status.st_ino % osts == strtoul(which, NULL, 10) ? ENOSPC : 0;
}

ssize_t preadv(int file, const struct iovec* parts, int count, off_t offset) {
  REAL(preadv);
  struct iovec fewer[IOV_MAX];
  if (!isFileBelow(file)) return real(file, parts, count, offset);
  return real(file, fewer, shortened(parts, count, fewer, "short read\n"), offset);
}

ssize_t pwritev(int file, const struct iovec* parts, int count, off_t offset) {
  REAL(pwritev);
  struct iovec fewer[IOV_MAX];
  if (!isFileBelow(file)) return real(file, parts, count, offset);
  const int error = fault(file);
  if (error != 0) {
    note(error == EDQUOT ? "over quota\n" : "OST full\n");
    errno = error;
    return -1;
  }
  return real(file, fewer, shortened(parts, count, fewer, "short write\n"), offset);
}

ssize_t preadv64(int, const struct iovec*, int, off_t) __attribute__((alias("preadv")));
ssize_t pwritev64(int, const struct iovec*, int, off_t) __attribute__((alias("pwritev")));

int fallocate(int file, int mode, off_t offset, off_t length) {
  REAL(fallocate);
  if (!isFileBelow(file)) return real(file, mode, offset, length);
  note("no fallocate\n");
  errno = EOPNOTSUPP;
  return -1;
}

int fallocate64(int, int, off_t, off_t) __attribute__((alias("fallocate")));
