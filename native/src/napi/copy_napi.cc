#include <algorithm>

#include "napi/blocks.h"
#include "napi/engine_handle.h"
#include "region/copy.h"

namespace kvferry::binding {
namespace {

/** What a thread takes at a time: long enough that taking costs nothing, short enough that all threads get some. */
constexpr uint64_t kUnitBytes = 256 * 1024;

struct CopyPlan {
  uint64_t blockBytes;
  bool verify;
  Rows from;
  Rows to;
  const uint32_t* fromSlots;
  const uint32_t* toSlots;
  const uint32_t* checksums;
  uint32_t count;

  uint32_t blocksPerUnit() const {
    return static_cast<uint32_t>(std::clamp<uint64_t>(kUnitBytes / blockBytes, 1, kBlocksPerBatchMax));
  }
};

class CopyBatch final : public Batch {
 public:
  CopyBatch(Priority priority, std::shared_ptr<EngineHandle> engine, Napi::Env env, CopyPlan plan)
      : Batch(priority, (plan.count + plan.blocksPerUnit() - 1) / plan.blocksPerUnit(), std::move(engine), env),
        blocksPerUnit_(plan.blocksPerUnit()),
        blockBytes_(plan.blockBytes),
        verify_(plan.verify),
        from_(std::move(plan.from)),
        to_(std::move(plan.to)),
        fromSlots_(plan.fromSlots, plan.fromSlots + plan.count),
        toSlots_(plan.toSlots, plan.toSlots + plan.count),
        checksums_(plan.checksums, plan.checksums + plan.count),
        blocks_(plan.count) {}

  void run(uint32_t unit, ThreadState&) noexcept override {
    const CopySide from{from_.memory, from_.rowBytes, from_.region.get()};
    const CopySide to{to_.memory, to_.rowBytes, to_.region.get()};
    for (uint32_t i = unit * blocksPerUnit_; i < endOf(unit); i++) {
      blocks_[i] = copyBlock(from, fromSlots_[i], to, toSlots_[i], blockBytes_, verify_, checksums_[i]);
    }
  }

  void skip(uint32_t unit, Code why) noexcept override {
    for (uint32_t i = unit * blocksPerUnit_; i < endOf(unit); i++) blocks_[i] = failed(why);
  }

  /** Where computed checksums go. */
  void keepChecksums(Napi::Value value) { target_ = keep(value); }

 protected:
  Napi::Value result(Napi::Env env) override {
    from_.region.reset();
    to_.region.reset();
    if (!verify_) {
      // The array may have been taken away (transferred) since; then nobody waits for them.
      const Napi::Value target = kept(env, target_);
      if (numbersLength(target, "checksums") == checksums_.size()) {
        std::copy(checksums_.begin(), checksums_.end(),
                  numbersOf(target, "checksums", static_cast<uint32_t>(checksums_.size())));
      }
    }
    return resultOf(env, blocks_);
  }

 private:
  uint32_t endOf(uint32_t unit) const {
    return std::min<uint32_t>(static_cast<uint32_t>(blocks_.size()), (unit + 1) * blocksPerUnit_);
  }

  const uint32_t blocksPerUnit_;
  const uint64_t blockBytes_;
  const bool verify_;
  Rows from_;
  Rows to_;
  const std::vector<uint32_t> fromSlots_;
  const std::vector<uint32_t> toSlots_;
  std::vector<uint32_t> checksums_;
  std::vector<BlockOutcome> blocks_;
  napi_ref target_ = nullptr;
};

}  // namespace

Napi::Value copyBlocks(const std::shared_ptr<EngineHandle>& engine, Napi::Object copy, uint32_t ticket) {
  CopyPlan plan{};
  plan.blockBytes = wholeNumber(copy.Get("blockBytes"), "blockBytes", kWholeMax);
  if (plan.blockBytes == 0) throw Error(Code::InvalidArgument, "blockBytes must be positive");
  const std::string mode = text(copy.Get("mode"), "mode");
  if (mode != "compute" && mode != "verify") throw Error(Code::InvalidArgument, "mode must be compute or verify");
  plan.verify = mode == "verify";
  plan.count = numbersLength(copy.Get("fromSlots"), "fromSlots");
  plan.fromSlots = numbersOf(copy.Get("fromSlots"), "fromSlots", plan.count);
  plan.toSlots = numbersOf(copy.Get("toSlots"), "toSlots", plan.count);
  plan.checksums = numbersOf(copy.Get("checksums"), "checksums", plan.count);
  plan.from = rowsOf(copy.Get("from"), copy.Get("fromRowBytes"), plan.blockBytes, plan.fromSlots, plan.count);
  plan.to = rowsOf(copy.Get("to"), copy.Get("toRowBytes"), plan.blockBytes, plan.toSlots, plan.count);
  const Napi::Value wanted = copy.Get("priority");
  const bool load = wanted.IsUndefined() ? plan.verify : text(wanted, "priority") == "load";
  const auto batch =
      std::make_shared<CopyBatch>(load ? Priority::Load : Priority::Store, engine, copy.Env(), std::move(plan));
  batch->keep(copy.Get("from"));
  batch->keep(copy.Get("to"));
  batch->keepChecksums(copy.Get("checksums"));
  return batch->submit(ticket);
}

}  // namespace kvferry::binding
