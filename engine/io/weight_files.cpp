#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/io/bytes.h"
#include "engine/io/safetensors.h"
#include "engine/io/torch_bin.h"
#include "engine/text/suggest.h"

namespace adder {
namespace {

struct File {
  std::string path;
  std::optional<SafetensorsFile> safetensors;
  std::optional<TorchBinFile> torch_bin;

  bool contains(const std::string& name) const {
    return safetensors ? safetensors->contains(name) : torch_bin->contains(name);
  }
};

// A file says by its first bytes what it is; its name may say anything.
File open_file(const std::string& path) {
  File file;
  file.path = path;
  const bool bin = path.ends_with(".bin") || path.ends_with(".pt") || path.ends_with(".pth") ||
                   MappedFile::open(path)->view().starts_with("PK\x03\x04");
  if (bin) {
    file.torch_bin = TorchBinFile::open(path);
  } else {
    file.safetensors = SafetensorsFile::open(path);
  }
  return file;
}

// The "weight_map" of an index file: tensor name -> shard.
std::map<std::string, std::string> read_index(const std::string& path) {
  const nlohmann::json index =
      nlohmann::json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || weight_map == index.end() || !weight_map->is_object()) {
    throw IoError(str(path, ":0: not a JSON object with a \"weight_map\" of tensor to shard"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : weight_map->items()) {
    if (!shard.is_string()) {
      throw IoError(str(path, ":0: the shard of '", io::printable(name), "' is not a string"));
    }
    // A shard lies beside its index: a path could name any file of the machine.
    const std::string file = shard.get<std::string>();
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos) {
      throw IoError(str(path, ":0: '", io::printable(file), "', the shard of '",
                        io::printable(name), "', is not a plain file name"));
    }
    shards[name] = file;
  }
  return shards;
}

}  // namespace

struct WeightFiles::Impl {
  std::string path;
  std::vector<File> files;
  std::map<std::string, std::size_t> index;

  const File& find(const std::string& name) const {
    const auto found = index.find(name);
    if (found != index.end()) return files[found->second];
    std::vector<std::string> names;
    for (const auto& item : index) names.push_back(item.first);
    throw IoError(str(path, ": no tensor '", name, "'", did_you_mean(name, names)));
  }

  void add_whole(const std::string& file_path) {
    files.push_back(open_file(file_path));
    const File& file = files.back();
    if (file.safetensors) {
      for (const SafetensorsEntry& entry : file.safetensors->entries()) index[entry.name] = 0;
    } else {
      for (const std::string& name : file.torch_bin->names()) index[name] = 0;
    }
  }

  void add_shards(const std::string& directory, const std::string& index_path) {
    std::map<std::string, std::size_t> opened;
    for (const auto& [name, shard] : read_index(index_path)) {
      auto found = opened.find(shard);
      if (found == opened.end()) {
        files.push_back(open_file(join_path(directory, shard)));
        found = opened.emplace(shard, files.size() - 1).first;
      }
      const File& file = files[found->second];
      if (!file.contains(name)) {
        throw IoError(str(index_path, ":0: tensor '", io::printable(name), "' is not in ", shard));
      }
      index[name] = found->second;
    }
  }
};

WeightFiles WeightFiles::open(const std::string& path) {
  auto impl = std::make_shared<Impl>();
  impl->path = path;
  if (!is_directory(path)) {
    impl->add_whole(path);
  } else {
    constexpr const char* kNames[] = {"model.safetensors", "model.safetensors.index.json",
                                      "pytorch_model.bin", "pytorch_model.bin.index.json"};
    const auto* name = std::find_if(std::begin(kNames), std::end(kNames),
                                    [&](const char* n) { return exists(join_path(path, n)); });
    if (name == std::end(kNames)) {
      throw IoError(str(path, ": holds no weights: none of ", kNames[0], ", ", kNames[1], ", ",
                        kNames[2], ", ", kNames[3]));
    }
    const std::string file = join_path(path, *name);
    if (file.ends_with(".json")) {
      impl->add_shards(path, file);
    } else {
      impl->add_whole(file);
    }
  }
  WeightFiles weights;
  weights.impl_ = std::move(impl);
  return weights;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  for (const auto& item : impl_->index) names.push_back(item.first);
  return names;
}

bool WeightFiles::contains(const std::string& name) const {
  return impl_->index.count(name) > 0;
}

Tensor WeightFiles::load(const std::string& name) const {
  const File& file = impl_->find(name);
  return file.safetensors ? file.safetensors->load(name) : file.torch_bin->load(name);
}

const std::string& WeightFiles::file_of(const std::string& name) const {
  return impl_->find(name).path;
}

}  // namespace adder
