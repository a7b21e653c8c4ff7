// libsurrogate for C++17: handles that close themselves, failures as exceptions. surrogate.h is the reference.
//
//     surrogate::bundle climate("climate.sg");
//     surrogate::function step(climate, "step");          // one for each thread
//     std::vector<float> temperature(step.input("temperature").elements());
//     for (;;) step.set("temperature", temperature).into("temperature", temperature).run(1);
//
// The arrays are bound, not copied: they must be there, and of the right size, when run is called.
#ifndef SURROGATE_HPP
#define SURROGATE_HPP

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "surrogate.h"

namespace surrogate {

/// What a status other than SURROGATE_OK becomes.
class error : public std::runtime_error {
 public:
  error(int status, const char *sentence) : std::runtime_error(sentence), status_(status) {}
  int status() const noexcept { return status_; }

 private:
  int status_;
};

inline void check(int status) {
  if (status != SURROGATE_OK) throw error(status, surrogate_last_error());
}

/// An argument of a function; dims and shape in C order, without the samples.
struct argument {
  std::string name, role, units, description;
  bool integer;
  std::vector<std::int64_t> shape;
  std::vector<std::string> dims;
  std::vector<double> levels;

  /// Of one sample.
  std::size_t elements() const {
    std::size_t count = 1;
    for (auto n : shape) count *= static_cast<std::size_t>(n);
    return count;
  }
};

/// A Bundle that is open. It must outlive its functions.
class bundle {
 public:
  explicit bundle(const std::string &directory, const std::string &plugin = "", const std::string &platform = "",
                  int device = 0, bool lazy = false, const std::string &backend = "", int threads = 0,
                  const std::string &cache = "") {
    surrogate_options options = {};
    options.struct_size = sizeof options;
    options.plugin = plugin.empty() ? nullptr : plugin.c_str();
    options.platform = platform.empty() ? nullptr : platform.c_str();
    options.device = device;
    options.lazy = lazy;
    options.backend = backend.empty() ? nullptr : backend.c_str();
    options.threads = threads;
    options.cache = cache.empty() ? nullptr : cache.c_str();
    check(surrogate_open(SURROGATE_ABI_VERSION, directory.c_str(), &options, &handle_));
  }
  ~bundle() { surrogate_close(handle_); }
  bundle(bundle &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  bundle &operator=(bundle &&other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  bundle(const bundle &) = delete;
  bundle &operator=(const bundle &) = delete;

  ::surrogate_model *get() const noexcept { return handle_; }

  /// A fact of the Bundle, empty where there is none; see surrogate_info.
  std::string info(const char *key) const {
    const char *text = surrogate_info(handle_, key);
    return text ? text : "";
  }

 private:
  ::surrogate_model *handle_ = nullptr;
};

/// A function of a bundle, for one thread.
class function {
 public:
  /// batch: 0 chooses by the number of samples, see surrogate_context_create.
  function(const bundle &owner, const std::string &name, std::int64_t batch = 0) : name_(name) {
    check(surrogate_context_create(owner.get(), name.c_str(), batch, &context_));
    for (int direction : {SURROGATE_INPUT, SURROGATE_OUTPUT}) {
      auto &list = direction == SURROGATE_INPUT ? inputs_ : outputs_;
      int count = surrogate_num_arguments(owner.get(), name.c_str(), direction);
      for (int i = 0; i < count; i++) {
        surrogate_argument found = {};
        found.struct_size = sizeof found;
        check(surrogate_describe(owner.get(), name.c_str(), direction, i, &found));
        list.push_back({found.name, found.role, found.units, found.description, found.dtype == SURROGATE_INT32,
                        {found.shape, found.shape + found.rank},
                        {found.dims, found.dims + found.rank},
                        {found.levels, found.levels + found.num_levels}});
      }
    }
    in_.resize(inputs_.size());
    out_.resize(outputs_.size());
    in_bytes_.resize(inputs_.size());
    out_bytes_.resize(outputs_.size());
  }
  ~function() { surrogate_context_destroy(context_); }
  function(function &&other) noexcept
      : name_(std::move(other.name_)),
        context_(std::exchange(other.context_, nullptr)),
        inputs_(std::move(other.inputs_)),
        outputs_(std::move(other.outputs_)),
        in_(std::move(other.in_)),
        out_(std::move(other.out_)),
        in_bytes_(std::move(other.in_bytes_)),
        out_bytes_(std::move(other.out_bytes_)) {}
  function(const function &) = delete;
  function &operator=(const function &) = delete;

  const std::vector<argument> &inputs() const noexcept { return inputs_; }
  const std::vector<argument> &outputs() const noexcept { return outputs_; }
  const argument &input(const std::string &name) const { return inputs_[index(inputs_, "input", name)]; }
  const argument &output(const std::string &name) const { return outputs_[index(outputs_, "output", name)]; }

  /// Read an input from here: `count` elements, all samples one after another.
  function &set(const std::string &name, const float *values, std::size_t count) {
    return bind_input(name, values, count, false);
  }
  function &set(const std::string &name, const std::int32_t *values, std::size_t count) {
    return bind_input(name, values, count, true);
  }
  template <class T>
  function &set(const std::string &name, const std::vector<T> &values) {
    return set(name, values.data(), values.size());
  }

  /// Write an output there.
  function &into(const std::string &name, float *values, std::size_t count) {
    std::size_t i = index(outputs_, "output", name);
    out_[i] = values;
    out_bytes_[i] = count * sizeof *values;
    return *this;
  }
  function &into(const std::string &name, std::vector<float> &values) {
    return into(name, values.data(), values.size());
  }

  /// Run on the arrays that are bound.
  function &run(std::int64_t samples) {
    check(surrogate_run(context_, samples, in_.data(), in_bytes_.data(), out_.data(), out_bytes_.data()));
    return *this;
  }

  /// Run, and say of each sample whether its inputs lie outside the training data: 0 where they do not; see surrogate.h.
  std::vector<std::int32_t> run_guarded(std::int64_t samples) {
    std::vector<std::int32_t> flags(static_cast<std::size_t>(samples));
    check(surrogate_run_guarded(context_, samples, in_.data(), in_bytes_.data(), out_.data(), out_bytes_.data(),
                                flags.data()));
    return flags;
  }

  /// The same without running.
  std::vector<std::int32_t> guard(std::int64_t samples, std::vector<float> *distances = nullptr) const {
    std::vector<std::int32_t> flags(static_cast<std::size_t>(samples));
    if (distances) distances->resize(flags.size());
    check(surrogate_guard(context_, samples, in_.data(), in_bytes_.data(), flags.data(),
                          distances ? distances->data() : nullptr));
    return flags;
  }

 private:
  std::size_t index(const std::vector<argument> &list, const char *word, const std::string &name) const {
    for (std::size_t i = 0; i < list.size(); i++)
      if (list[i].name == name) return i;
    throw error(SURROGATE_INVALID, (name_ + " has no " + word + " '" + name + "'").c_str());
  }
  function &bind_input(const std::string &name, const void *values, std::size_t count, bool integer) {
    std::size_t i = index(inputs_, "input", name);
    if (inputs_[i].integer != integer)
      throw error(SURROGATE_INVALID, (name_ + ": input '" + name + "' is of the other type, float or int32").c_str());
    in_[i] = values;
    in_bytes_[i] = count * 4;
    return *this;
  }

  std::string name_;
  surrogate_context *context_ = nullptr;
  std::vector<argument> inputs_, outputs_;
  std::vector<const void *> in_;
  std::vector<void *> out_;
  std::vector<std::size_t> in_bytes_, out_bytes_;
};

}  // namespace surrogate

#endif
