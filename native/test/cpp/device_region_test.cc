// Memory that is mapped here: bytes are right, and memory that is taken away costs its own chunks.
#include <fcntl.h>
#include <unistd.h>

#include "device/host_region.h"
#include "device_fixture.h"

namespace kvferry::test {
namespace {

std::vector<uint8_t> bytesOf(const Region& region) { return {region.data(), region.data() + region.bytes()}; }

std::shared_ptr<Region> filled(Random& random, uint64_t bytes) {
  auto region = Region::create({1, bytes, 0});
  for (size_t i = 0; i < bytes; i++) region->data()[i] = static_cast<uint8_t>(random());
  return region;
}

}  // namespace

TEST(regions_are_gathered_and_scattered_byte_by_byte) {
  Random random(11);
  for (int round = 0; round < 100; round++) {
    const std::vector<std::shared_ptr<Region>> regions{filled(random, 5000 + round), filled(random, 9000)};
    const std::vector<uint64_t> sizes{regions[0]->bytes(), regions[1]->bytes()};
    const LayoutShape shape = randomShape(random, sizes);
    const DeviceLayout layout(shape, sizes);
    HostRegionDevice device(regions);
    const auto group = static_cast<uint32_t>(upTo(random, layout.groups() - 1));
    const auto blocks = randomBlocks(random, layout, group);
    std::vector<uint8_t> host(layout.partBytes(), 0xaa);
    const Part part{host.data(), group, blocks.data()};
    BlockOutcome outcome;
    copyParts(device, layout, Direction::Gather, &part, 1, nullptr, &outcome);
    CHECK_EQ(outcome, kStored);
    CHECK(host == gatheredPart(shape, {bytesOf(*regions[0]), bytesOf(*regions[1])}, layout.partBytes(), group,
                               blocks.data()));
    for (uint8_t& byte : host) byte = static_cast<uint8_t>(random());
    std::vector<std::vector<uint8_t>> wanted{bytesOf(*regions[0]), bytesOf(*regions[1])};
    forPages(shape, group, blocks.data(), [&](uint32_t memory, uint64_t at, uint64_t hostAt, uint64_t bytes) {
      std::memcpy(wanted[memory].data() + at, host.data() + hostAt, bytes);
    });
    copyParts(device, layout, Direction::Scatter, &part, 1, nullptr, &outcome);
    CHECK_EQ(outcome, kLoaded);
    CHECK(bytesOf(*regions[0]) == wanted[0]);
    CHECK(bytesOf(*regions[1]) == wanted[1]);
  }
}

TEST(an_engine_that_cuts_its_memory_short_loses_its_own_chunks) {
  constexpr uint64_t kPage = 4096;
  const Scratch scratch;
  Random random(3);
  const auto other = filled(random, 8 * kPage);
  for (const Direction direction : {Direction::Gather, Direction::Scatter}) {
    const std::string path = scratch / std::to_string(static_cast<int>(direction));
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_EQ(ftruncate(file, 8 * kPage), 0);
    HostRegionDevice device({Region::mapPath(path, {8, kPage, 0}), other});
    const DeviceTensor tensor{0, 0, kPage, kPage, 8};
    const DeviceTensor whole{1, 0, kPage, kPage, 8};
    const DeviceLayout layout({{tensor, whole}, {{{0, kPage}}, {{1, kPage}}}, 2}, {8 * kPage, 8 * kPage});
    std::vector<uint8_t> host(layout.partBytes() * 3);
    const uint32_t blocks[] = {0, 1, 6, 7, 3, 2};
    const Part parts[] = {{host.data(), 0, blocks},
                          {host.data() + layout.partBytes(), 0, blocks + 2},
                          {host.data() + 2 * layout.partBytes(), 1, blocks + 4}};
    const BlockOutcome good = direction == Direction::Gather ? kStored : kLoaded;
    BlockOutcome outcomes[3];
    copyParts(device, layout, direction, parts, 3, nullptr, outcomes);
    for (const BlockOutcome& outcome : outcomes) CHECK_EQ(outcome, good);
    CHECK_EQ(ftruncate(file, 2 * kPage), 0);
    copyParts(device, layout, direction, parts, 3, nullptr, outcomes);
    CHECK_EQ(outcomes[0], good);
    CHECK_EQ(outcomes[1], failed(Code::RegionGone));
    CHECK_EQ(outcomes[2], good);
    // From then on nothing of that memory counts any more.
    copyParts(device, layout, direction, parts, 3, nullptr, outcomes);
    CHECK_EQ(outcomes[0], failed(Code::RegionGone));
    CHECK_EQ(outcomes[2], good);
    close(file);
  }
}

}  // namespace kvferry::test
