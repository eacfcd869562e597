// Opening: folders are made, and what the file system can do is tried instead of guessed.
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "common/aligned.h"
#include "storage/file_store.h"
#include "storage/folder_calls.h"

namespace kvferry {
namespace {

void checkOptions(const FileStoreOptions& options) {
  const auto fail = [](const std::string& message) { throw Error(Code::InvalidArgument, message); };
  for (const auto& folder : {options.blocksFolder, options.tmpFolder, options.quarantineFolder}) {
    if (folder.empty() || folder[0] != '/') fail("folders must be absolute paths: '" + folder + "'");
    if (folder.find('\0') != std::string::npos) fail("a folder's path holds a zero byte");
  }
  const size_t keyBytesMax = keyBytesMaxOf(options.layout);
  if (options.facts.keyBytes < kKeyBytesMin || options.facts.keyBytes > keyBytesMax) {
    fail("keyBytes must be 5 to " + std::to_string(keyBytesMax) + " in this layout");
  }
  if (options.facts.blockBytes == 0 || options.facts.blockBytes > (uint64_t{1} << 40)) {
    fail("blockBytes must be 1 to 2^40");
  }
  if (options.facts.writer.size() > kWriterBytesMax) fail("writer must have at most 64 bytes");
}

/** Without umask(2), which would change it for other threads in between. */
mode_t currentUmask() {
  FILE* file = std::fopen("/proc/self/status", "re");
  if (file == nullptr) return 0777;  // unknown: set every mode explicitly
  char line[256];
  unsigned mask = 0777;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::sscanf(line, "Umask: %o", &mask) == 1) break;
  }
  std::fclose(file);
  return mask;
}

}  // namespace

Folder::~Folder() {
  if (file_ >= 0) close(file_);
}

FileStore::FileStore(FileStoreOptions options, Io& io)
    : options_(std::move(options)),
      io_(io),
      paddedBytes_(roundUpToPage(options_.facts.blockBytes)),
      fileBytes_(paddedBytes_ + kFooterBytes) {}

std::shared_ptr<FileStore> FileStore::open(FileStoreOptions options, Io& io) {
  checkOptions(options);
  std::shared_ptr<FileStore> store(new FileStore(std::move(options), io));
  store->umask_ = currentUmask();
  store->blocks_ = store->openFolder(store->options_.blocksFolder);
  store->tmp_ = store->openFolder(store->options_.tmpFolder);
  if (store->options_.layout == Layout::Kvferry) store->makeBlockFolders();
  store->probeNamedFile();
  const Direct direct = store->options_.direct;
  const bool wholePages = store->options_.facts.blockBytes % kPageBytes == 0;
  if (direct == Direct::On || (direct == Direct::Auto && wholePages)) store->direct_ = store->probeDirect();
  if (direct == Direct::On && !store->direct_) {
    throw Error(Code::Unsupported, "O_DIRECT does not work in " + store->options_.tmpFolder, EINVAL,
                store->options_.tmpFolder);
  }
  const Publish publish = store->options_.publish;
  store->publish_ = publish != Publish::Rename && store->probeLink() ? Publish::Link : Publish::Rename;
  if (publish == Publish::Link && store->publish_ != Publish::Link) {
    throw Error(Code::Unsupported, "O_TMPFILE and linkat do not work in " + store->options_.tmpFolder, EOPNOTSUPP,
                store->options_.tmpFolder);
  }
  return store;
}

Folder FileStore::openFolder(const std::string& path) {
  if (const int made = makeFolders(io_, path, options_.folderMode); made < 0) {
    throw Error::ofErrno(-made, "make the folder", path);
  }
  const int file = io_.openAt(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY, 0);
  if (file < 0) throw Error::ofErrno(-file, "open the folder", path);
  return Folder(file);
}

void FileStore::makeBlockFolders() {
  for (int i = 0; i < 256; i++) {
    const auto byte = static_cast<uint8_t>(i);
    char name[3];
    writeHex(name, &byte, 1);
    const int made = io_.makeFolder(blocks_.fd(), name, options_.folderMode);
    if (made < 0 && made != -EEXIST) throw Error::ofErrno(-made, "make a folder in", options_.blocksFolder);
  }
}

/** Writing must work, and a name must be able to move from tmpFolder to blocksFolder. */
void FileStore::probeNamedFile() {
  const std::string name = nextName();
  const int file = io_.openAt(tmp_.fd(), name.c_str(), O_CREAT | O_EXCL | O_WRONLY, options_.fileMode);
  if (file < 0) throw Error::ofErrno(-file, "make a file in", options_.tmpFolder);
  io_.closeFile(file);
  const std::string probe = ".probe-" + options_.facts.writer.substr(0, options_.facts.writer.find('/')) + "-" + name;
  const int moved = io_.rename(tmp_.fd(), name.c_str(), blocks_.fd(), probe.c_str());
  io_.unlink(moved < 0 ? tmp_.fd() : blocks_.fd(), moved < 0 ? name.c_str() : probe.c_str());
  if (moved == -EXDEV) {
    throw Error(Code::InvalidArgument, "tmpFolder and blocksFolder must be on one file system: " + options_.tmpFolder,
                EXDEV, options_.tmpFolder);
  }
  if (moved < 0) throw Error::ofErrno(-moved, "move a file to", options_.blocksFolder);
}

bool FileStore::probeDirect() {
  const std::string name = nextName();
  const int file = io_.openAt(tmp_.fd(), name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_DIRECT, options_.fileMode);
  // Some file systems make the file and refuse the flag only then.
  if (file < 0) {
    io_.unlink(tmp_.fd(), name.c_str());
    return false;
  }
  AlignedBuffer buffers[2];
  uint8_t* const written = buffers[0].reserve(kPageBytes);
  uint8_t* const read = buffers[1].reserve(kPageBytes);
  std::memset(written, 0xa5, kPageBytes);
  std::memset(read, 0, kPageBytes);
  const iovec out{written, kPageBytes};
  const iovec in{read, kPageBytes};
  constexpr int64_t page = kPageBytes;
  const bool works = io_.write(file, &out, 1, 0) == page && io_.read(file, &in, 1, 0) == page &&
                     std::memcmp(written, read, kPageBytes) == 0;
  io_.closeFile(file);
  io_.unlink(tmp_.fd(), name.c_str());
  return works;
}

bool FileStore::probeLink() {
  const int file = io_.openAt(tmp_.fd(), ".", O_TMPFILE | O_WRONLY, options_.fileMode);
  if (file < 0) return false;
  const std::string name = nextName();
  const int linked = io_.link(file, tmp_.fd(), name.c_str());
  io_.closeFile(file);
  if (linked == 0) io_.unlink(tmp_.fd(), name.c_str());
  return linked == 0;
}

std::string FileStore::nextName() { return std::to_string(nameCounter_.fetch_add(1, std::memory_order_relaxed)); }

FolderListing FileStore::list(const std::string& path) {
  FolderListing listing;
  const int file = io_.openAt(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY, 0);
  if (file == -ENOENT) return listing;
  if (file < 0) throw Error::ofErrno(-file, "open the folder", path);
  DIR* folder = fdopendir(file);
  if (folder == nullptr) {
    const int error = errno;
    close(file);
    throw Error::ofErrno(error, "read the folder", path);
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> guard(folder, closedir);
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(folder);
    if (entry == nullptr) break;
    if (entry->d_type != DT_REG && entry->d_type != DT_UNKNOWN) continue;
    struct stat status;
    // A file that went away in between is no error.
    if (fstatat(file, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode)) continue;
    listing.names.emplace_back(entry->d_name);
    listing.bytes.push_back(static_cast<double>(status.st_size));
    listing.modifiedAtMs.push_back(static_cast<double>(status.st_mtim.tv_sec) * 1e3 +
                                   static_cast<double>(status.st_mtim.tv_nsec / 1'000'000));
  }
  if (errno != 0) throw Error::ofErrno(errno, "read the folder", path);
  return listing;
}

BlockOutcome FileStore::remove(const uint8_t* key) {
  if (options_.layout == Layout::VllmFs && !exists(key)) return {Outcome::Miss, Code::None};  // not ours to remove
  const BlockPath path(options_.layout, key, options_.facts.keyBytes);
  const int removed = io_.unlink(blocks_.fd(), path.file);
  if (removed == 0) return {Outcome::Removed, Code::None};
  if (removed == -ENOENT || removed == -ENOTDIR) return {Outcome::Miss, Code::None};
  return failed(codeOfErrno(-removed));
}

BlockPresence FileStore::presenceOf(const uint8_t* key) {
  const BlockPath path(options_.layout, key, options_.facts.keyBytes);
  struct stat status;
  const int found = io_.statAt(blocks_.fd(), path.file, status);
  if (found == 0) return isOurs(path, key, status) ? BlockPresence::There : BlockPresence::Missing;
  return found == -ENOENT || found == -ENOTDIR ? BlockPresence::Missing : BlockPresence::Unknown;
}

}  // namespace kvferry
