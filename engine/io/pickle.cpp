#include "engine/io/pickle.h"

#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "engine/error.h"
#include "engine/io/bytes.h"

namespace adder::io {
namespace {

constexpr std::size_t kMaxValues = 2'000'000;
constexpr int kMaxDepth = 32;                  // of dictionaries in dictionaries
constexpr std::size_t kMaxVisits = 2'000'000;  // dictionaries may share parts: paths can explode
constexpr std::size_t kMaxTensors = 200'000;   // and dictionaries
constexpr std::size_t kMaxNameBytes = 1024;

// The opcodes of Python's pickletools that are understood; every other one is refused.
enum Opcode : unsigned char {
  kProto = 0x80,
  kFrame = 0x95,
  kStop = '.',
  kMark = '(',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kNone = 'N',
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kLong1 = 0x8a,
  kBinFloat = 'G',
  kBinUnicode = 'X',
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinString = 'T',
  kShortBinString = 'U',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kEmptyDict = '}',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kTuple = 't',
  kAppend = 'a',
  kAppends = 'e',
  kSetItem = 's',
  kSetItems = 'u',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kMemoize = 0x94,
  kBinGet = 'h',
  kLongBinGet = 'j',
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kBinPersId = 'Q',
  kReduce = 'R',
  kBuild = 'b',
};

enum class Kind {
  none,
  boolean,
  integer,
  real,
  text,
  tuple,
  list,
  dict,
  global,
  storage,
  tensor,
  opaque
};
enum class Global { ordered_dict, tensor, parameter, size, device, storage };

// Texts are slices of the pickle; containers refer to values in the arena, so that a cycle (which a
// memo can make) is neither a leak nor followed.
struct Value {
  Kind kind = Kind::none;
  Global global = Global::ordered_dict;
  std::int64_t integer = 0;   // boolean, integer; storage, tensor: index in the list of these
  std::string_view text;      // text; global: its name
  std::vector<Value*> items;  // tuple, list; dict: key, value, key, value …
};

struct StorageRef {
  std::string_view type;
  std::string_view key;
  std::int64_t numel;
};

struct TensorRef {
  std::size_t storage;
  std::int64_t offset;
  std::vector<std::int64_t> extents;
  std::vector<std::int64_t> strides;
  std::uint64_t place;
};

class Machine {
 public:
  Machine(std::string_view pickle, const std::string& path, std::uint64_t base)
      : bytes_(pickle), path_(path), base_(base) {}

  std::vector<PickledTensor> run() {
    while (step()) {
    }
    if (stack_.size() != 1 || !marks_.empty()) fail("the pickle does not leave one object");
    if (stack_[0]->kind != Kind::dict) fail("the pickle's object is not a dictionary of tensors");
    flatten(*stack_[0], "", 0);
    return std::move(found_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw IoError(str(path_, ":", base_ + start_, ": ", what));
  }

  // Reading.
  std::string_view take(std::uint64_t count) {
    if (count > bytes_.size() - at_) fail("the pickle is truncated");
    const std::string_view taken = bytes_.substr(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return taken;
  }
  std::uint64_t number(int count) {
    return load_le(take(static_cast<std::uint64_t>(count)).data(), count);
  }
  std::string_view line() {
    const std::size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) fail("the pickle is truncated");
    const std::string_view taken = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return taken;
  }

  // The stack.
  Value& push(Kind kind) {
    if (values_.size() == kMaxValues) fail(str("the pickle has over ", kMaxValues, " objects"));
    Value& value = values_.emplace_back();
    value.kind = kind;
    stack_.push_back(&value);
    return value;
  }
  void push_integer(std::int64_t value) { push(Kind::integer).integer = value; }
  void push_text(std::string_view text) { push(Kind::text).text = text; }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Value& top() {
    if (stack_.size() <= floor()) fail("the pickle takes from an empty stack");
    return *stack_.back();
  }
  Value* pop() {
    Value* value = &top();
    stack_.pop_back();
    return value;
  }
  std::vector<Value*> pop_to_mark() {
    if (marks_.empty()) fail("the pickle uses a mark it has not set");
    const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Value*> items(from, stack_.end());
    stack_.erase(from, stack_.end());
    marks_.pop_back();
    return items;
  }
  void push_tuple(std::size_t count) {
    std::vector<Value*> items(count);
    while (count-- > 0) items[count] = pop();
    push(Kind::tuple).items = std::move(items);
  }
  void append(std::vector<Value*> items) {
    Value& list = top();
    if (list.kind != Kind::list) fail("the pickle appends to what is not a list");
    list.items.insert(list.items.end(), items.begin(), items.end());
  }
  void set_items(const std::vector<Value*>& items) {
    Value& dict = top();
    if (dict.kind != Kind::dict) fail("the pickle sets an item of what is not a dictionary");
    if (items.size() % 2 != 0) fail("the pickle sets a key without a value");
    dict.items.insert(dict.items.end(), items.begin(), items.end());
  }
  void memoize(std::uint64_t index) { memo_[index] = &top(); }
  void push_again(Value* value) {
    if (stack_.size() == kMaxValues) fail(str("the pickle has over ", kMaxValues, " objects"));
    stack_.push_back(value);
  }
  void recall(std::uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail(str("the pickle recalls object ", index, ", never stored"));
    push_again(found->second);
  }

  // Meaning.
  void push_global(std::string_view module, std::string_view name) {
    const auto is = [&](const char* m, const char* n) { return module == m && name == n; };
    Global global = Global::storage;
    if (is("collections", "OrderedDict")) {
      global = Global::ordered_dict;
    } else if (is("torch._utils", "_rebuild_tensor_v2")) {
      global = Global::tensor;
    } else if (is("torch._utils", "_rebuild_parameter")) {
      global = Global::parameter;
    } else if (is("torch", "Size")) {
      global = Global::size;
    } else if (is("torch", "device")) {
      global = Global::device;
    } else if (module != "torch" || !name.ends_with("Storage") ||
               name.find('.') != std::string_view::npos) {
      fail(str("refuses to run '", printable(module), ".", printable(name),
               "': only dictionaries of tensors are read, and no code"));
    }
    Value& value = push(Kind::global);
    value.global = global;
    value.text = name;
  }

  void reduce() {
    const Value& arguments = *pop();
    const Value& callee = *pop();
    if (callee.kind != Kind::global || arguments.kind != Kind::tuple) {
      fail("the pickle calls what is not a function");
    }
    const std::vector<Value*>& args = arguments.items;
    const auto check = [&](bool good) {
      if (!good) fail(str("wrong arguments for '", callee.text, "'"));
    };
    switch (callee.global) {
      case Global::ordered_dict: {
        check(args.empty() || (args.size() == 1 && args[0]->kind == Kind::list));
        std::vector<Value*> items;
        for (const Value* pair : args.empty() ? std::vector<Value*>() : args[0]->items) {
          check(pair->items.size() == 2 && (pair->kind == Kind::list || pair->kind == Kind::tuple));
          items.insert(items.end(), pair->items.begin(), pair->items.end());
        }
        copied_ += items.size();  // one list can be the argument of many calls
        if (copied_ > kMaxValues) fail(str("the pickle has over ", kMaxValues, " objects"));
        push(Kind::dict).items = std::move(items);
        return;
      }
      case Global::tensor: {
        check(args.size() >= 4 && args.size() <= 7 && args[0]->kind == Kind::storage &&
              args[1]->kind == Kind::integer);
        TensorRef tensor{
            static_cast<std::size_t>(args[0]->integer), args[1]->integer, {}, {}, base_ + start_};
        for (const auto& [list, to] :
             {std::pair(args[2], &tensor.extents), std::pair(args[3], &tensor.strides)}) {
          check(list->kind == Kind::tuple);
          for (const Value* item : list->items) {
            check(item->kind == Kind::integer);
            to->push_back(item->integer);
          }
        }
        check(tensor.extents.size() == tensor.strides.size());
        if (tensor.extents.size() > static_cast<std::size_t>(Shape::kMaxRank)) {
          fail(str("a tensor of ", tensor.extents.size(), " dimensions; the library takes ",
                   Shape::kMaxRank));
        }
        push(Kind::tensor).integer = static_cast<std::int64_t>(tensors_.size());
        tensors_.push_back(std::move(tensor));
        return;
      }
      case Global::parameter:
        check(!args.empty() && args[0]->kind == Kind::tensor);
        stack_.push_back(args[0]);
        return;
      case Global::size:
        check(args.size() == 1 && args[0]->kind == Kind::tuple);
        stack_.push_back(args[0]);
        return;
      case Global::device:
        push(Kind::opaque);
        return;
      case Global::storage:
        check(false);
    }
  }

  // The persistent id ('storage', class, key, location, number of elements) stands for a storage.
  void load_storage() {
    const Value& id = *pop();
    const std::vector<Value*>& items = id.items;
    if (id.kind != Kind::tuple || items.size() < 5 || items[0]->kind != Kind::text ||
        items[0]->text != "storage" || items[1]->kind != Kind::global ||
        items[1]->global != Global::storage || items[2]->kind != Kind::text ||
        items[4]->kind != Kind::integer) {
      fail("a persistent id that is not a tensor's storage");
    }
    push(Kind::storage).integer = static_cast<std::int64_t>(storages_.size());
    storages_.push_back({items[1]->text, items[2]->text, items[4]->integer});
  }

  // Runs one opcode; false at the end.
  bool step() {
    start_ = at_;
    const auto op = static_cast<unsigned char>(take(1)[0]);
    switch (op) {
      case kProto:
        if (const std::uint64_t version = number(1); version < 2 || version > 5) {
          fail(str("pickle protocol ", version, " is not one of 2 to 5"));
        }
        break;
      case kFrame:  // a hint for buffered reading
        if (number(8) > bytes_.size() - at_) fail("the pickle is truncated");
        break;
      case kStop:
        return false;
      case kMark:
        marks_.push_back(stack_.size());
        break;
      case kPop:
        pop();
        break;
      case kPopMark:
        pop_to_mark();
        break;
      case kDup:
        push_again(&top());
        break;
      case kNone:
        push(Kind::none);
        break;
      case kNewTrue:
        push(Kind::boolean).integer = 1;
        break;
      case kNewFalse:
        push(Kind::boolean).integer = 0;
        break;
      case kBinInt:
        push_integer(static_cast<std::int32_t>(static_cast<std::uint32_t>(number(4))));
        break;
      case kBinInt1:
        push_integer(static_cast<std::int64_t>(number(1)));
        break;
      case kBinInt2:
        push_integer(static_cast<std::int64_t>(number(2)));
        break;
      case kLong1:
        push_long(static_cast<int>(number(1)));
        break;
      case kBinFloat:
        take(8);
        push(Kind::real);
        break;
      case kBinUnicode:
        push_text(take(number(4)));
        break;
      case kShortBinUnicode:
        push_text(take(number(1)));
        break;
      case kBinUnicode8:
        push_text(take(number(8)));
        break;
      case kBinString:
        push_text(take(number(4)));
        break;
      case kShortBinString:
        push_text(take(number(1)));
        break;
      case kBinBytes:
        take(number(4));
        push(Kind::opaque);
        break;
      case kShortBinBytes:
        take(number(1));
        push(Kind::opaque);
        break;
      case kEmptyTuple:
        push(Kind::tuple);
        break;
      case kEmptyList:
        push(Kind::list);
        break;
      case kEmptyDict:
        push(Kind::dict);
        break;
      case kTuple1:
        push_tuple(1);
        break;
      case kTuple2:
        push_tuple(2);
        break;
      case kTuple3:
        push_tuple(3);
        break;
      case kTuple: {
        std::vector<Value*> items = pop_to_mark();
        push(Kind::tuple).items = std::move(items);
        break;
      }
      case kAppend:
        append({pop()});
        break;
      case kAppends:
        append(pop_to_mark());
        break;
      case kSetItem: {
        Value* value = pop();
        Value* key = pop();
        set_items({key, value});
        break;
      }
      case kSetItems:
        set_items(pop_to_mark());
        break;
      case kBinPut:
        memoize(number(1));
        break;
      case kLongBinPut:
        memoize(number(4));
        break;
      case kMemoize:
        memoize(memo_.size());
        break;
      case kBinGet:
        recall(number(1));
        break;
      case kLongBinGet:
        recall(number(4));
        break;
      case kGlobal: {
        const std::string_view module = line();
        push_global(module, line());
        break;
      }
      case kStackGlobal: {
        const Value& name = *pop();
        const Value& module = *pop();
        if (name.kind != Kind::text || module.kind != Kind::text) fail("a global without a name");
        push_global(module.text, name.text);
        break;
      }
      case kBinPersId:
        load_storage();
        break;
      case kReduce:
        reduce();
        break;
      case kBuild:  // attributes such as a state dict's _metadata, which hold no weights
        pop();
        if (top().kind != Kind::dict && top().kind != Kind::tensor) {
          fail("the pickle gives attributes to what is neither a dictionary nor a tensor");
        }
        break;
      default:
        fail(str("the pickle has opcode ", static_cast<int>(op),
                 ", which dictionaries of tensors do not need"));
    }
    return true;
  }

  void push_long(int count) {
    if (count > 8) {  // no extent of a tensor, so nothing that is used
      take(static_cast<std::uint64_t>(count));
      push(Kind::opaque);
      return;
    }
    std::uint64_t value = number(count);
    if (count > 0 && count < 8 && (value >> (8 * count - 1)) != 0) {
      value |= ~std::uint64_t{0} << (8 * count);  // two's complement of fewer bytes
    }
    push_integer(static_cast<std::int64_t>(value));
  }

  void flatten(const Value& dict, const std::string& prefix, int depth) {
    if (depth == kMaxDepth) fail(str("dictionaries are nested more than ", kMaxDepth, " deep"));
    for (std::size_t i = 0; i < dict.items.size(); i += 2) {
      if (++visits_ > kMaxVisits) fail(str("dictionaries with over ", kMaxVisits, " entries"));
      const Value& key = *dict.items[i];
      const Value& value = *dict.items[i + 1];
      if (value.kind != Kind::dict && value.kind != Kind::tensor) continue;
      if (++kept_ > kMaxTensors) fail(str("over ", kMaxTensors, " tensors and dictionaries"));
      std::string name = prefix + (depth > 0 ? "." : "");
      if (key.kind == Kind::text) {
        name += key.text.substr(0, kMaxNameBytes + 1);
      } else if (key.kind == Kind::integer) {
        name += std::to_string(key.integer);
      } else {
        fail(str("a key in '", printable(prefix), "' is neither a string nor an integer"));
      }
      if (name.size() > kMaxNameBytes) {
        fail(str("the name '", printable(name), "' is longer than ", kMaxNameBytes, " bytes"));
      }
      if (value.kind == Kind::dict) {
        flatten(value, name, depth + 1);
        continue;
      }
      if (!names_.insert(name).second) fail(str("two tensors are named '", printable(name), "'"));
      const TensorRef& tensor = tensors_[static_cast<std::size_t>(value.integer)];
      const StorageRef& storage = storages_[tensor.storage];
      found_.push_back({std::move(name), std::string(storage.type), std::string(storage.key),
                        storage.numel, tensor.offset, tensor.extents, tensor.strides,
                        tensor.place});
    }
  }

  std::string_view bytes_;
  const std::string& path_;
  std::uint64_t base_;
  std::size_t at_ = 0;
  std::size_t start_ = 0;  // of the current opcode
  std::deque<Value> values_;
  std::vector<Value*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, Value*> memo_;
  std::vector<StorageRef> storages_;
  std::vector<TensorRef> tensors_;
  std::unordered_set<std::string> names_;
  std::vector<PickledTensor> found_;
  std::size_t copied_ = 0;
  std::size_t visits_ = 0;
  std::size_t kept_ = 0;
};

}  // namespace

std::vector<PickledTensor> read_pickled_tensors(std::string_view pickle, const std::string& path,
                                                std::uint64_t base) {
  return Machine(pickle, path, base).run();
}

}  // namespace adder::io
