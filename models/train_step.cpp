#include "models/train_step.h"

#include <algorithm>
#include <cstring>

#include "engine/recording.h"

namespace adder {
namespace {

// Larger steps are bound by the device, and their memory would be held twice.
constexpr std::int64_t kMostRecordedTokens = 4096;
constexpr std::size_t kMostRecordings = 64;

void check_ids(const Tensor& ids, std::int64_t vocabulary) {
  const auto* id = ids.data<std::int32_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] < 0 || id[i] >= vocabulary) {
      throw ShapeError(
          str("train step: id ", id[i], " at position ", i, ", the model has ", vocabulary));
    }
  }
}

}  // namespace

// One shape's recording, its inputs side by side in one block, and where its results stay.
struct TrainStep::Recorded {
  explicit Recorded(const Shapes& of, Device device)
      : storage(Storage::allocate(bytes(of), device)), shapes(of) {}

  static constexpr std::size_t kSchedule = 0;  // (3) float32
  static constexpr std::size_t kStream = 16;   // (1) int64
  static constexpr std::size_t kRows = 24;     // (count) int64, then ids and targets, int32
  static std::size_t bytes(const Shapes& s) {
    return kRows + static_cast<std::size_t>(12 * s[2] + 4 * s[0] * s[1]);
  }
  std::size_t ids_at() const { return kRows + static_cast<std::size_t>(8 * shapes[2]); }
  std::size_t targets_at() const {
    return ids_at() + static_cast<std::size_t>(4 * shapes[0] * shapes[1]);
  }
  Tensor view(std::size_t at, Shape shape, Dtype dtype) const {
    return Tensor::from_storage(storage, at, shape, dtype);
  }
  void fill(const StepBatch& batch, const SupervisedRows& rows, std::uint64_t stream,
            const std::vector<float>& schedule) const {
    const Tensor host = Tensor::empty({static_cast<std::int64_t>(storage->bytes())}, Dtype::u8);
    auto* to = static_cast<char*>(host.raw());
    std::memcpy(to + kSchedule, schedule.data(), schedule.size() * sizeof(float));
    std::memcpy(to + kStream, &stream, sizeof(stream));
    const Tensor ids = batch.ids.contiguous();
    std::memcpy(to + ids_at(), ids.raw(), ids.nbytes());
    if (shapes[2] > 0) {
      std::memcpy(to + kRows, rows.rows.raw(), rows.rows.nbytes());
      std::memcpy(to + targets_at(), rows.targets.raw(), rows.targets.nbytes());
    }
    view(0, host.shape(), Dtype::u8).copy_from(host);
  }

  std::shared_ptr<Storage> storage;
  Shapes shapes;
  Tensor sums, clip;
  std::unique_ptr<Recording> recording;
};

TrainStep::TrainStep(const LanguageModel& model, Optimizer& optimizer, TrainStepOptions options)
    : model_(model), optimizer_(optimizer), options_(std::move(options)) {}

TrainStep::~TrainStep() = default;

std::int64_t TrainStep::recorded_launches() const {
  return last_ != nullptr ? last_->recording->launches() : 0;
}

bool TrainStep::may_record(const std::vector<StepBatch>& batches) const {
  return options_.record && !options_.before_update && !model_.device().is_cpu() &&
         batches.size() == 1 && batches.front().ids.numel() <= kMostRecordedTokens;
}

StepResult TrainStep::run(const std::vector<StepBatch>& batches, std::uint64_t first, double lr) {
  std::vector<SupervisedRows> rows;
  std::int64_t supervised = 0;
  for (const StepBatch& batch : batches) {
    check_shape("train step", "labels", batch.labels, batch.ids.shape());
    check_ids(batch.ids, model_.vocab_size());
    rows.push_back(supervised_rows(batch.labels, model_.vocab_size()));
    supervised += rows.back().rows.numel();
  }
  const auto dropped = [](const auto& each) {
    return each.second && each.second->recording && each.second->recording->dropped();
  };
  if (std::any_of(recorded_.begin(), recorded_.end(), dropped)) stop_recording();
  if (!may_record(batches)) return run_plainly(batches, rows, supervised, first, lr);
  const Tensor& ids = batches.front().ids;
  const Shapes shapes{ids.dim(0), ids.dim(1), supervised};
  const auto found = recorded_.find(shapes);
  if (found == recorded_.end()) {
    // Lists and plans that are made on first use are made by a step that is not recorded.
    if (recorded_.size() < kMostRecordings) recorded_.emplace(shapes, nullptr);
    return run_plainly(batches, rows, supervised, first, lr);
  }
  if (!found->second) {
    found->second = std::make_unique<Recorded>(shapes, model_.device());
  }
  Recorded& step = *found->second;
  step.fill(batches.front(), rows.front(), first << kMicroBatchShift, optimizer_.schedule(lr));
  if (!step.recording) {
    try {
      record(step, supervised);
    } catch (const DeviceError&) {  // too little memory for both, say: go on without
      stop_recording();
      optimizer_.clear_gradients();
      return run_plainly(batches, rows, supervised, first, lr);
    }
  }
  step.recording->replay();
  optimizer_.count_step();
  ++replays_;
  last_ = &step;
  StepResult result;
  result.supervised = supervised;
  result.losses.emplace_back(step.sums);
  result.clip = Readback(step.clip);
  return result;
}

void TrainStep::stop_recording() {
  options_.record = false;
  recorded_.clear();
  last_ = nullptr;
}

void TrainStep::record(Recorded& step, std::int64_t supervised) {
  const auto [batch, length, count] = step.shapes;
  const Tensor ids = step.view(step.ids_at(), {batch, length}, Dtype::i32);
  const SupervisedRows rows{step.view(Recorded::kRows, {count}, Dtype::i64),
                            step.view(step.targets_at(), {count}, Dtype::i32)};
  const ForwardContext context{.training = true,
                               .seed = options_.seed,
                               .recompute = options_.recompute,
                               .stream_offset = step.view(Recorded::kStream, {1}, Dtype::i64)};
  const Tensor schedule = step.view(Recorded::kSchedule, {3}, Dtype::f32);
  step.recording = std::make_unique<Recording>(model_.device(), [&] {
    Tape tape;
    const HeadLossResult loss = model_.loss(ids, rows, context, supervised);
    step.sums = loss.sums;
    tape.backward(loss.loss);
    step.clip = clip_gradients(optimizer_.trainables(), options_.max_norm);
    optimizer_.record_step(schedule, step.clip);
  });
}

StepResult TrainStep::run_plainly(const std::vector<StepBatch>& batches,
                                  const std::vector<SupervisedRows>& rows, std::int64_t supervised,
                                  std::uint64_t first, double lr) {
  StepResult result;
  result.supervised = supervised;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const ForwardContext context{.training = true,
                                 .seed = options_.seed,
                                 .micro_batch = first + i,
                                 .recompute = options_.recompute};
    Tape tape;
    const HeadLossResult loss = model_.loss(batches[i].ids, rows[i], context, supervised);
    result.losses.emplace_back(loss.sums);
    tape.backward(loss.loss);
  }
  if (options_.before_update) options_.before_update();
  const Tensor clip = clip_gradients(optimizer_.trainables(), options_.max_norm);
  result.clip = Readback(clip);
  optimizer_.step(lr, clip);
  return result;
}

}  // namespace adder
