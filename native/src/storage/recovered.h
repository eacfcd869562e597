// What recovery found in all segments, put in order: by namespace, and in it by time.
#pragma once

#include <cstdint>
#include <vector>

#include "storage/segment_drive.h"

namespace kvferry {

/** Blocks of one shape. */
struct RecoveredNamespace {
  struct Item {
    const Record* record;
    uint32_t segment;
  };
  RecordShape shape;
  /** By rising sequence. */
  std::vector<Item> records;
  uint64_t blocks = 0;

  /** Fills arrays of `blocks` elements (keys: times keyBytes). */
  void copyTo(const Superblock& superblock, uint8_t* keys, uint32_t* offsets4k, uint32_t* checksums,
              double* sequences) const;
};

/** `parts` must outlive the result. */
std::vector<RecoveredNamespace> groupRecords(const std::vector<RecoveredPart>& parts);

}  // namespace kvferry
