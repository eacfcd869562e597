#include "common/codes.h"

#include <cerrno>

namespace kvferry {

Code codeOfErrno(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Code::NoSpace;
    case EACCES:
    case EPERM:
      return Code::Permission;
    case EROFS:
      return Code::ReadOnly;
    case EIO:
    case EREMOTEIO:  // what an NFS server's own fault becomes
      return Code::Io;
    case ESTALE:
      return Code::Stale;
    case EMFILE:
    case ENFILE:
      return Code::TooManyFiles;
    case EINVAL:
      return Code::InvalidArgument;
    case EOPNOTSUPP:  // the same number as ENOTSUP
    case ENOSYS:
      return Code::Unsupported;
    case EAGAIN:
    case EBUSY:
      return Code::Busy;
    case ETIMEDOUT:
      return Code::Deadline;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN:
    case EHOSTDOWN:
    case EHOSTUNREACH:
      return Code::Unavailable;
    default:
      return Code::Internal;
  }
}

const char* codeName(Code code) {
  static constexpr const char* names[] = {
      "",           "INTERNAL",    "INVALID_ARGUMENT",   "UNSUPPORTED",    "NOT_OPEN", "CLOSED",         "ABORTED",
      "DEADLINE",   "BUSY",        "NO_SPACE",           "PERMISSION",     "READ_ONLY", "IO",            "STALE",
      "UNAVAILABLE", "REGION_GONE", "NAMESPACE_MISMATCH", "CONFIG_INVALID", "PROTOCOL", "TOO_MANY_FILES", "CORRUPT", "DEVICE_LOST", "DEVICE_FAILED",
  };
  const auto number = static_cast<unsigned>(code);
  return number < sizeof(names) / sizeof(names[0]) ? names[number] : "INTERNAL";
}

std::string errnoName(int error) {
  // strerrorname_np would do this, but needs glibc 2.32.
  switch (error) {
#define KVFERRY_NAME(name) \
  case name:               \
    return #name
    KVFERRY_NAME(EACCES);
    KVFERRY_NAME(EADDRINUSE);
    KVFERRY_NAME(EAGAIN);
    KVFERRY_NAME(EBADF);
    KVFERRY_NAME(EBUSY);
    KVFERRY_NAME(ECONNREFUSED);
    KVFERRY_NAME(ECONNRESET);
    KVFERRY_NAME(EDQUOT);
    KVFERRY_NAME(EEXIST);
    KVFERRY_NAME(EFAULT);
    KVFERRY_NAME(EFBIG);
    KVFERRY_NAME(EINTR);
    KVFERRY_NAME(EINVAL);
    KVFERRY_NAME(EIO);
    KVFERRY_NAME(EISDIR);
    KVFERRY_NAME(ELOOP);
    KVFERRY_NAME(EMFILE);
    KVFERRY_NAME(ENAMETOOLONG);
    KVFERRY_NAME(ENFILE);
    KVFERRY_NAME(ENODEV);
    KVFERRY_NAME(ENOENT);
    KVFERRY_NAME(ENOMEM);
    KVFERRY_NAME(ENOSPC);
    KVFERRY_NAME(ENOSYS);
    KVFERRY_NAME(ENOTCONN);
    KVFERRY_NAME(ENOTDIR);
    KVFERRY_NAME(ENOTEMPTY);
    KVFERRY_NAME(EOPNOTSUPP);
    KVFERRY_NAME(EPERM);
    KVFERRY_NAME(EPIPE);
    KVFERRY_NAME(EREMOTEIO);
    KVFERRY_NAME(EROFS);
    KVFERRY_NAME(ESRCH);
    KVFERRY_NAME(ESTALE);
    KVFERRY_NAME(ETIMEDOUT);
    KVFERRY_NAME(EXDEV);
#undef KVFERRY_NAME
    default:
      return "errno " + std::to_string(error);
  }
}

Error Error::ofErrno(int error, const std::string& doing, const std::string& path) {
  return Error(codeOfErrno(error), "cannot " + doing + (path.empty() ? "" : " " + path) + ": " + errnoName(error), error,
               path);
}

Error Error::ofField(const std::string& field, const std::string& problem) {
  return Error(Code::InvalidArgument, field + " " + problem, 0, {}, field);
}

}  // namespace kvferry
