#include "storage/recovered.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>

namespace kvferry {
namespace {

std::string nameOf(const RecordShape& shape) {
  std::string name(reinterpret_cast<const char*>(shape.namespaceDigest.data()), kDigestBytes);
  name.append(reinterpret_cast<const char*>(&shape.keyBytes), sizeof(shape.keyBytes));
  name.append(reinterpret_cast<const char*>(&shape.blockBytes), sizeof(shape.blockBytes));
  return name;
}

}  // namespace

std::vector<RecoveredNamespace> groupRecords(const std::vector<RecoveredPart>& parts) {
  std::vector<RecoveredNamespace> groups;
  std::unordered_map<std::string, size_t> places;
  for (const RecoveredPart& part : parts) {
    for (const RecoveredPart::Segment& segment : part.segments) {
      for (const Record& record : segment.records) {
        // Most records are of the namespace of the one before.
        size_t place = groups.size();
        if (!groups.empty() && groups.back().shape == record.shape) {
          place = groups.size() - 1;
        } else {
          place = places.emplace(nameOf(record.shape), groups.size()).first->second;
          if (place == groups.size()) groups.push_back({record.shape, {}, 0});
        }
        groups[place].records.push_back({&record, segment.life.segment});
        groups[place].blocks += record.count;
      }
    }
  }
  for (RecoveredNamespace& group : groups) {
    std::stable_sort(group.records.begin(), group.records.end(),
                     [](const auto& a, const auto& b) { return a.record->sequence < b.record->sequence; });
  }
  return groups;
}

void RecoveredNamespace::copyTo(const Superblock& superblock, uint8_t* keys, uint32_t* offsets4k, uint32_t* checksums,
                                double* sequences) const {
  const auto pages = static_cast<uint32_t>(shape.paddedBytes() / kPageBytes);
  for (const Item& item : records) {
    const Record& record = *item.record;
    std::memcpy(keys, record.keys, size_t{record.count} * shape.keyBytes);
    std::memcpy(checksums, record.checksums, size_t{record.count} * 4);
    const uint64_t place = superblock.placeOf(item.segment) + shape.headerBytes(record.count);
    const auto first = static_cast<uint32_t>(place / kPageBytes) + record.offset4k;
    for (uint32_t i = 0; i < record.count; i++) offsets4k[i] = first + i * pages;
    std::fill_n(sequences, record.count, static_cast<double>(record.sequence));
    keys += size_t{record.count} * shape.keyBytes;
    checksums += record.count;
    offsets4k += record.count;
    sequences += record.count;
  }
}

}  // namespace kvferry
