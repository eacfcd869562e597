// Layouts: what is copied where is what the page-by-page model says, and nothing that lies outside is let in.
#include "device_fixture.h"

namespace kvferry::test {
namespace {

/** Copies, and looks at what it is asked for. */
class ModelDevice final : public Device {
 public:
  explicit ModelDevice(std::vector<std::vector<uint8_t>>& memories) : memories_(memories) {}

  void copy(Direction direction, const ChunkCopy* chunks, uint32_t count, BlockOutcome* outcomes) noexcept override {
    for (uint32_t c = 0; c < count; c++) {
      for (uint32_t i = 0; i < chunks[c].count; i++) {
        const Fragment& fragment = chunks[c].fragments[i];
        if (i > 0) {
          const Fragment& before = chunks[c].fragments[i - 1];
          ordered = ordered && before.hostAt + before.bytes <= fragment.hostAt;
          joined = joined && !(before.memory == fragment.memory && before.at + before.bytes == fragment.at &&
                               before.hostAt + before.bytes == fragment.hostAt);
        }
        uint8_t* const page = memories_[fragment.memory].data() + fragment.at;
        inside = inside && fragment.at + fragment.bytes <= memories_[fragment.memory].size();
        if (!inside) return;
        uint8_t* const host = chunks[c].host + fragment.hostAt;
        std::memcpy(direction == Direction::Gather ? host : page, direction == Direction::Gather ? page : host,
                    fragment.bytes);
      }
      outcomes[c] = direction == Direction::Gather ? kStored : kLoaded;
    }
  }

  bool ordered = true;
  bool joined = true;
  bool inside = true;

 private:
  std::vector<std::vector<uint8_t>>& memories_;
};

std::vector<std::vector<uint8_t>> randomMemories(Random& random) {
  std::vector<std::vector<uint8_t>> memories(1 + upTo(random, 2));
  for (auto& memory : memories) {
    memory.resize(2000 + upTo(random, 6000));
    for (uint8_t& byte : memory) byte = static_cast<uint8_t>(random());
  }
  return memories;
}

std::vector<uint64_t> sizesOf(const std::vector<std::vector<uint8_t>>& memories) {
  std::vector<uint64_t> sizes;
  for (const auto& memory : memories) sizes.push_back(memory.size());
  return sizes;
}

std::string refusedField(const LayoutShape& shape, const std::vector<uint64_t>& memoryBytes) {
  try {
    const DeviceLayout layout(shape, memoryBytes);
  } catch (const Error& error) {
    CHECK_EQ(error.code, Code::InvalidArgument);
    CHECK(std::string(error.what()).starts_with(error.field));
    return error.field;
  }
  return "";
}

}  // namespace

TEST(random_layouts_copy_what_the_model_says) {
  Random random(2026);
  for (int round = 0; round < 600; round++) {
    auto memories = randomMemories(random);
    const LayoutShape shape = randomShape(random, sizesOf(memories));
    const DeviceLayout layout(shape, sizesOf(memories));
    ModelDevice device(memories);
    constexpr uint32_t kParts = 4;
    const uint64_t rowBytes = layout.partBytes() + 16;
    std::vector<uint8_t> host(kParts * rowBytes);
    for (uint8_t& byte : host) byte = static_cast<uint8_t>(random());
    std::vector<std::vector<uint32_t>> blocks;
    Part parts[kParts];
    for (uint32_t i = 0; i < kParts; i++) {
      parts[i].group = static_cast<uint32_t>(upTo(random, layout.groups() - 1));
      parts[i].host = host.data() + i * rowBytes;
      blocks.push_back(randomBlocks(random, layout, parts[i].group));
    }
    for (uint32_t i = 0; i < kParts; i++) parts[i].blocks = blocks[i].data();

    auto scattered = memories;
    for (const Part& part : parts) {
      forPages(shape, part.group, part.blocks, [&](uint32_t memory, uint64_t at, uint64_t hostAt, uint64_t bytes) {
        std::memcpy(scattered[memory].data() + at, part.host + hostAt, bytes);
      });
    }
    const auto hostBefore = host;
    BlockOutcome outcomes[kParts];
    copyParts(device, layout, Direction::Scatter, parts, kParts, nullptr, outcomes);
    for (const BlockOutcome& outcome : outcomes) CHECK_EQ(outcome, kLoaded);
    CHECK(host == hostBefore);
    CHECK(memories == scattered);

    copyParts(device, layout, Direction::Gather, parts, kParts, nullptr, outcomes);
    for (uint32_t i = 0; i < kParts; i++) {
      CHECK_EQ(outcomes[i], kStored);
      auto wanted = gatheredPart(shape, memories, layout.partBytes(), parts[i].group, parts[i].blocks);
      wanted.insert(wanted.end(), hostBefore.begin() + static_cast<long>(i * rowBytes + layout.partBytes()),
                    hostBefore.begin() + static_cast<long>((i + 1) * rowBytes));
      CHECK(std::equal(wanted.begin(), wanted.end(), parts[i].host));
    }
    CHECK(device.ordered && device.joined && device.inside);
  }
}

TEST(pages_of_two_chunks_are_never_one_copy) {
  Random random(4);
  auto memories = randomMemories(random);
  const LayoutShape shape{{{0, 0, 100, 100, 20}}, {{{0, 100}}}, 2};
  const DeviceLayout layout(shape, sizesOf(memories));
  ModelDevice device(memories);
  // The second chunk goes on where the first one ends, in the device's memory and by its place in the part.
  const uint32_t blocks[] = {5, kNoBlock, kNoBlock, 6};
  std::vector<uint8_t> host(400, 0xaa);
  const Part parts[] = {{host.data() + 200, 0, blocks}, {host.data(), 0, blocks + 2}};
  BlockOutcome outcomes[2];
  copyParts(device, layout, Direction::Gather, parts, 2, nullptr, outcomes);
  for (const Part& part : parts) {
    const auto wanted = gatheredPart(shape, memories, 200, 0, part.blocks);
    CHECK(std::equal(wanted.begin(), wanted.end(), part.host));
  }
}

TEST(layouts_that_cannot_be_are_refused_by_the_name_of_the_field) {
  const std::vector<uint64_t> memories{10'000, 1};
  const LayoutShape good{{{0, 16, 100, 90, 99}, {0, 9'999, 1, 1, 1}, {1, 0, 5, 1, 1}}, {{{0, 90}, {1, 1}}, {}}, 4};
  CHECK_EQ(refusedField(good, memories), "");
  const auto refused = [&](auto change) {
    LayoutShape shape = good;
    change(shape);
    return refusedField(shape, memories);
  };
  using Shape = LayoutShape;
  CHECK_EQ(refused([](Shape& shape) { shape.blocksPerChunk = 0; }), "layout.blocksPerChunk");
  CHECK_EQ(refused([](Shape& shape) { shape.blocksPerChunk = 65'537; }), "layout.blocksPerChunk");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors.clear(); }), "layout.tensors");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors.resize(16'385, shape.tensors[0]); }), "layout.tensors");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[1].memory = 2; }), "layout.tensors[1].memory");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[0].pageBytes = 0; }), "layout.tensors[0].pageBytes");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[0].strideBytes = 89; }), "layout.tensors[0].strideBytes");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[0].pages = 0; }), "layout.tensors[0].pages");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[0].pages = 100'000'000'000; }), "layout.tensors[0].pages");
  // The last page ends a byte after the memory.
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[0].offset = 111; }), "layout.tensors[0].pages");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[0].offset = 110; }), "");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[1].offset = 10'001; }), "layout.tensors[1].offset");
  CHECK_EQ(refused([](Shape& shape) { shape.tensors[1].offset = 10'000; }), "layout.tensors[1].pages");
  CHECK_EQ(refused([](Shape& shape) { shape.groups.clear(); }), "layout.groups");
  CHECK_EQ(refused([](Shape& shape) { shape.groups.resize(1025); }), "layout.groups");
  CHECK_EQ(refused([](Shape& shape) { shape.groups[0][1].tensor = 3; }), "layout.groups[0][1].tensor");
  CHECK_EQ(refused([](Shape& shape) { shape.groups[0][1].tensor = 0; }), "layout.groups[0]");
  CHECK_EQ(refused([](Shape& shape) { shape.groups[0][0].bytes = 91; }), "layout.groups[0][0].bytes");
  CHECK_EQ(refused([](Shape& shape) { shape.groups[0][0].bytes = 0; }), "layout.groups[0][0].bytes");
}

TEST(layouts_whose_sums_overflow_are_refused) {
  const uint64_t most = UINT64_MAX;
  const auto refused = [&](DeviceTensor tensor, uint64_t memoryBytes) {
    return refusedField({{tensor}, {{{0, 1}}}, 65'536}, {memoryBytes});
  };
  CHECK_EQ(refused({0, 16, most / 2, 1, 5}, most), "layout.tensors[0].pages");
  CHECK_EQ(refused({0, 16, most, 1, 2}, most), "layout.tensors[0].pages");
  CHECK_EQ(refused({0, most, 1, 1, 1}, most - 1), "layout.tensors[0].offset");
  CHECK_EQ(refused({0, 2, most, most, 1}, most), "layout.tensors[0].pages");
  CHECK_EQ(refused({0, 0, most, most, 1}, most), "layout.tensors[0].pageBytes");
  CHECK_EQ(refused({0, 0, 1 << 24, (1 << 24) + 1, 1}, most), "layout.tensors[0].strideBytes");
  CHECK_EQ(refused({0, 0, 1 << 24, 1 << 24, 1}, most), "");
  CHECK_EQ(refused({0, 0, (1 << 24) + 1, (1 << 24) + 1, 1}, most), "layout.tensors[0].pageBytes");
  // Each tensor fits; their sum does not.
  const DeviceTensor half{0, 0, 1 << 23, 1 << 23, 1};
  CHECK_EQ(refusedField({{half, half}, {{}}, 65'536}, {most}), "");
  CHECK_EQ(refusedField({{half, half, half}, {{}}, 65'536}, {most}), "layout.tensors[2].pageBytes");
}

TEST(what_a_chunk_may_take_of_a_threads_memory_is_bounded) {
  LayoutShape shape;
  shape.blocksPerChunk = 65'536;
  shape.groups.resize(1);
  for (uint32_t i = 0; i < 5; i++) {
    shape.tensors.push_back({0, i, 1, 1, 1});
    CHECK_EQ(refusedField(shape, {5}), "");
    shape.groups[0].push_back({i, 1});
    CHECK_EQ(refusedField(shape, {5}), i < 4 ? "" : "layout.groups[0]");
    if (i == 4) shape.groups[0].pop_back();
  }
  shape.blocksPerChunk = 1;
  shape.groups.resize(1024);
  for (auto& group : shape.groups) {
    group.clear();
  }
  shape.tensors.assign(129, {0, 0, 1, 1, 1});
  for (uint32_t i = 0; i < 1024; i++) {
    for (uint32_t t = 0; t < 64; t++) shape.groups[i].push_back({t, 1});
  }
  CHECK_EQ(refusedField(shape, {5}), "");
  shape.groups[7].push_back({100, 1});
  CHECK_EQ(refusedField(shape, {5}), "layout.groups");
}

}  // namespace kvferry::test
