// The system calls of the file store behind an interface, so that tests can shorten transfers and make any call fail.
#pragma once

#include <sys/stat.h>
#include <sys/uio.h>

#include <cstdint>
#include <string>

namespace kvferry {

/** Whether files are opened with O_DIRECT; Auto: where it works. */
enum class Direct : uint8_t { Auto, On, Off };

/** Every call returns what the system call does, or -errno. EINTR is retried inside. Thread-safe. */
class Io {
 public:
  virtual ~Io() = default;
  virtual int openAt(int folder, const char* path, int flags, mode_t mode);
  virtual int closeFile(int file);
  virtual int64_t read(int file, const iovec* parts, int count, int64_t offset);
  virtual int64_t write(int file, const iovec* parts, int count, int64_t offset);
  virtual int sync(int file);
  virtual int statFile(int file, struct stat& status);
  virtual int statAt(int folder, const char* path, struct stat& status);
  /** Gives an unnamed or named open file a name; -EEXIST if it is taken. */
  virtual int link(int file, int folder, const char* path);
  virtual int rename(int fromFolder, const char* from, int toFolder, const char* to);
  virtual int unlink(int folder, const char* path);
  virtual int makeFolder(int folder, const char* path, mode_t mode);
  virtual int changeMode(int file, mode_t mode);
  /** Turns O_DIRECT of an open file off. */
  virtual int makeBuffered(int file);
};

/** The real ones. */
Io& systemIo();

/** Moves all bytes that `parts` describe, `offset` being that of the first, however short the kernel's transfers are.
 * `parts` is used up. An O_DIRECT file becomes a buffered one where a rest is not aligned or the file system says EINVAL.
 * Returns the bytes moved (fewer than asked only at the end of the file, when reading) or -errno. */
int64_t transfer(Io& io, bool writing, int file, iovec* parts, int count, int64_t offset, bool direct);

}  // namespace kvferry
