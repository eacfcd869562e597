// A test framework in a page: TEST(name) { CHECK(...); CHECK_EQ(a, b); }, and SKIP("why").
#pragma once

#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace check {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Skipped : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Test {
  const char* file;
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

/** What `tests --child NAME` runs: for tests that need a process of their own. */
inline std::vector<Test>& children() {
  static std::vector<Test> all;
  return all;
}

struct ChildRegistration {
  ChildRegistration(const char* file, const char* name, void (*body)()) { children().push_back({file, name, body}); }
};

struct Registration {
  Registration(const char* file, const char* name, void (*body)()) { tests().push_back({file, name, body}); }
};

template <typename Value>
std::string show(const Value& value) {
  std::ostringstream out;
  if constexpr (std::is_enum_v<Value>) {
    out << static_cast<long long>(value);
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else if constexpr (requires { value.outcome; }) {
    out << "outcome " << show(value.outcome) << ", code " << show(value.code);
  } else {
    out << "?";
  }
  return out.str();
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  throw Failure(std::string(file).substr(std::string(file).rfind('/') + 1) + ":" + std::to_string(line) + ": " + what);
}

}  // namespace check

#define TEST(name)                                                               \
  static void name();                                                            \
  static const ::check::Registration registration_##name(__FILE__, #name, name); \
  static void name()

#define CHILD(name)                                                                 \
  static void name();                                                               \
  static const ::check::ChildRegistration registration_##name(__FILE__, #name, name); \
  static void name()

#define CHECK(condition)                                                         \
  do {                                                                           \
    if (!(condition)) ::check::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

#define CHECK_EQ(actual, expected)                                                                                  \
  do {                                                                                                              \
    const auto& actual_ = (actual);                                                                                 \
    const auto& expected_ = (expected);                                                                             \
    if (!(actual_ == expected_))                                                                                    \
      ::check::fail(__FILE__, __LINE__,                                                                             \
                    #actual " is " + ::check::show(actual_) + ", not " + ::check::show(expected_)); \
  } while (false)

#define SKIP(why) throw ::check::Skipped(why)
