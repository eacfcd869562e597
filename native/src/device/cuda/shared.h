// Things of which a process may have one only, made at the first use and ended at the last.
#pragma once

#include <map>
#include <memory>
#include <mutex>

namespace kvferry::cuda {

/** Makes and ends values under its lock, so that one never begins while its predecessor ends. Must outlive what it gave out. */
template <typename Key, typename Value>
class Shared {
 public:
  /** `make` gives a unique_ptr; what it throws is thrown. */
  template <typename Make>
  std::shared_ptr<Value> acquire(const Key& key, Make make) {
    std::unique_lock lock(mutex_);
    auto found = values_.find(key);
    if (found == values_.end()) found = values_.emplace(key, Entry{make(), 0}).first;
    Value* const value = found->second.value.get();
    found->second.count++;
    lock.unlock();  // where there is no memory for the next line, it calls release
    return std::shared_ptr<Value>(value, [this, key](Value*) { release(key); });
  }

 private:
  struct Entry {
    std::unique_ptr<Value> value;
    size_t count;
  };

  void release(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = values_.find(key);
    if (--found->second.count == 0) values_.erase(found);
  }

  std::mutex mutex_;
  std::map<Key, Entry> values_;
};

}  // namespace kvferry::cuda
