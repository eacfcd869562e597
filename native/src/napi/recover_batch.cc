#include "napi/recover_batch.h"

#include <algorithm>
#include <cstring>

#include "storage/recovered.h"

namespace kvferry::binding {
namespace {

/** Segments that a thread looks at at a time. */
constexpr uint32_t kSegmentsPerUnit = 8;

class RecoverBatch final : public Batch {
 public:
  RecoverBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<SegmentDrive> drive)
      : Batch(Priority::Load, unitsOf(*drive), std::move(engine), env), drive_(std::move(drive)), parts_(units) {}

  void run(uint32_t unit, ThreadState&) noexcept override {
    try {
      const uint32_t first = unit * kSegmentsPerUnit;
      const auto segments = static_cast<uint32_t>(drive_->superblock().segments);
      parts_[unit] = drive_->recover(first, std::min(kSegmentsPerUnit, segments - first));
    } catch (...) {
      outOfMemory_.store(true);
    }
  }

  void finish() noexcept override {
    try {
      if (skipped() == Code::None) {
        for (const RecoveredPart& part : parts_) drive_->takeUp(part);
        namespaces_ = groupRecords(parts_);
      }
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      outOfMemory_.store(true);
    }
    Batch::finish();
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    const std::shared_ptr<SegmentDrive> drive = std::move(drive_);
    if (skipped() != Code::None) throw Error(skipped(), "the drive was not read through");
    if (error_) throw Error(*error_);
    if (outOfMemory_.load()) throw Error(Code::Internal, "out of memory");
    Napi::Object result = Napi::Object::New(env);
    result.Set("segments", segments(env));
    Napi::Array namespaces = Napi::Array::New(env, namespaces_.size());
    for (uint32_t i = 0; i < namespaces_.size(); i++) {
      namespaces.Set(i, entries(env, drive->superblock(), namespaces_[i]));
    }
    result.Set("namespaces", namespaces);
    uint32_t damagedSegments = 0;
    uint32_t damagedRecords = 0;
    for (const RecoveredPart& part : parts_) {
      damagedSegments += part.damagedSegments;
      damagedRecords += part.damagedRecords;
    }
    result.Set("damagedSegments", damagedSegments);
    result.Set("damagedRecords", damagedRecords);
    return result;
  }

 private:
  static uint32_t unitsOf(const SegmentDrive& drive) {
    return static_cast<uint32_t>((drive.superblock().segments + kSegmentsPerUnit - 1) / kSegmentsPerUnit);
  }

  Napi::Object segments(Napi::Env env) const {
    size_t count = 0;
    for (const RecoveredPart& part : parts_) count += part.segments.size();
    Napi::Uint32Array index = Napi::Uint32Array::New(env, count);
    Napi::Float64Array epoch = Napi::Float64Array::New(env, count);
    Napi::Float64Array sequence = Napi::Float64Array::New(env, count);
    Napi::Float64Array usedBytes = Napi::Float64Array::New(env, count);
    Napi::Uint8Array sealed = Napi::Uint8Array::New(env, count);
    Napi::Uint32Array records = Napi::Uint32Array::New(env, count);
    Napi::Uint32Array blocks = Napi::Uint32Array::New(env, count);
    Napi::Float64Array keyBytes = Napi::Float64Array::New(env, count);
    size_t i = 0;
    for (const RecoveredPart& part : parts_) {
      for (const RecoveredPart::Segment& segment : part.segments) {
        index[i] = segment.life.segment;
        epoch[i] = static_cast<double>(segment.life.epoch);
        sequence[i] = static_cast<double>(segment.life.sequence);
        usedBytes[i] = static_cast<double>(segment.usedBytes);
        sealed[i] = segment.sealed ? 1 : 0;
        records[i] = static_cast<uint32_t>(segment.records.size());
        uint32_t blockCount = 0;
        double keys = 0;
        for (const Record& record : segment.records) {
          blockCount += record.count;
          keys += static_cast<double>(uint64_t{record.count} * record.shape.keyBytes);
        }
        blocks[i] = blockCount;
        keyBytes[i++] = keys;
      }
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("index", index);
    result.Set("epoch", epoch);
    result.Set("sequence", sequence);
    result.Set("usedBytes", usedBytes);
    result.Set("sealed", sealed);
    result.Set("records", records);
    result.Set("blocks", blocks);
    result.Set("keyBytes", keyBytes);
    return result;
  }

  static Napi::Object entries(Napi::Env env, const Superblock& superblock, const RecoveredNamespace& found) {
    const RecordShape& shape = found.shape;
    Napi::Uint8Array digest = Napi::Uint8Array::New(env, kDigestBytes);
    std::memcpy(digest.Data(), shape.namespaceDigest.data(), kDigestBytes);
    Napi::Uint8Array keys = Napi::Uint8Array::New(env, found.blocks * shape.keyBytes);
    Napi::Uint32Array offsets4k = Napi::Uint32Array::New(env, found.blocks);
    Napi::Uint32Array checksums = Napi::Uint32Array::New(env, found.blocks);
    Napi::Float64Array sequences = Napi::Float64Array::New(env, found.blocks);
    found.copyTo(superblock, keys.Data(), offsets4k.Data(), checksums.Data(), sequences.Data());
    Napi::Object result = Napi::Object::New(env);
    result.Set("namespaceDigest", digest);
    result.Set("keyBytes", shape.keyBytes);
    result.Set("blockBytes", static_cast<double>(shape.blockBytes));
    result.Set("keys", keys);
    result.Set("offsets4k", offsets4k);
    result.Set("checksums", checksums);
    result.Set("sequences", sequences);
    return result;
  }

  std::shared_ptr<SegmentDrive> drive_;
  std::vector<RecoveredPart> parts_;
  std::vector<RecoveredNamespace> namespaces_;
  std::unique_ptr<Error> error_;
  std::atomic<bool> outOfMemory_{false};
};

}  // namespace

Napi::Value recoverDrive(Napi::Env env, const std::shared_ptr<EngineHandle>& engine,
                         const std::shared_ptr<SegmentDrive>& drive) {
  return std::make_shared<RecoverBatch>(engine, env, drive)->submit(0);
}

}  // namespace kvferry::binding
