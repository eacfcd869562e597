// Numbers shared with JavaScript: ERROR_CODES and Outcome of @kvferry/core. They never change.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace kvferry {

enum class Code : uint8_t {
  None = 0,
  Internal = 1,
  InvalidArgument = 2,
  Unsupported = 3,
  NotOpen = 4,
  Closed = 5,
  Aborted = 6,
  Deadline = 7,
  Busy = 8,
  NoSpace = 9,
  Permission = 10,
  ReadOnly = 11,
  Io = 12,
  Stale = 13,
  Unavailable = 14,
  RegionGone = 15,
  NamespaceMismatch = 16,
  ConfigInvalid = 17,
  Protocol = 18,
  TooManyFiles = 19,
  Corrupt = 20,
  DeviceLost = 21,
  DeviceFailed = 22,
};

/** Failed is 0, so that an outcome nobody set is a failure. */
enum class Outcome : uint8_t {
  Failed = 0,
  Stored = 1,
  Present = 2,
  Dropped = 3,
  Loaded = 4,
  Miss = 5,
  Corrupt = 6,
  Removed = 7,
};

/** What happened to one block. */
struct BlockOutcome {
  Outcome outcome = Outcome::Failed;
  Code code = Code::None;

  bool operator==(const BlockOutcome&) const = default;
};

inline BlockOutcome failed(Code code) { return {Outcome::Failed, code}; }

/** The code of a system error; the same table as core's `toKvferryError`. */
Code codeOfErrno(int error);

/** "NO_SPACE", … */
const char* codeName(Code code);

/** "ENOSPC", …; "errno 123" for what has no name here. */
std::string errnoName(int error);

/** Thrown where a whole call fails (opening, mapping, listening); single blocks end with outcomes instead. */
class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message, int error = 0, std::string path = {}, std::string field = {})
      : std::runtime_error(message), code(code), error(error), path(std::move(path)), field(std::move(field)) {}

  /** "cannot open /x: EACCES", with the code that belongs to the errno. */
  static Error ofErrno(int error, const std::string& doing, const std::string& path);
  /** INVALID_ARGUMENT, "layout.tensors[3].memory must be below 2". */
  static Error ofField(const std::string& field, const std::string& problem);

  const Code code;
  /** The errno, 0 if none. */
  const int error;
  const std::string path;
  /** The argument that is wrong, empty if none. */
  const std::string field;
};

}  // namespace kvferry
