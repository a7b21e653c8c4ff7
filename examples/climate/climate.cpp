// climate BUNDLE STATES MEMBERS STEPS FORECAST: an ensemble forecast by an exported surrogate; see README.md.
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "surrogate.hpp"

int main(int count, char **words) try {
  if (count != 6) throw std::runtime_error("usage: climate BUNDLE STATES MEMBERS STEPS FORECAST");
  const std::size_t members = std::stoul(words[3]);
  const long steps = std::stol(words[4]);
  surrogate::bundle model(words[1]);  // once, never in the time loop
  surrogate::function step(model, "step");

  std::ifstream states(words[2], std::ios::binary);
  if (!states) throw std::runtime_error(std::string("cannot read ") + words[2]);
  std::vector<std::vector<float>> fields;
  for (const auto &input : step.inputs()) {
    const std::size_t one = std::accumulate(input.shape.begin(), input.shape.end(), std::size_t{1}, std::multiplies<>());
    auto &field = fields.emplace_back(one * members);
    states.read(reinterpret_cast<char *>(field.data()), static_cast<std::streamsize>(field.size() * sizeof(float)));
    if (!states) throw std::runtime_error(std::string(words[2]) + " is too short");
  }
  if (!members || states.peek() != std::ifstream::traits_type::eof())
    throw std::runtime_error(std::string(words[2]) + " holds another number of members");
  // What is predicted of a field is written over it.
  for (std::size_t i = 0; i < fields.size(); i++) {
    const std::string &name = step.inputs()[i].name;
    step.set(name, fields[i]).into(name, fields[i]);
  }
  for (long n = 1; n <= steps; n++) {
    step.run(static_cast<std::int64_t>(members));
    const double sum = std::accumulate(fields[0].begin(), fields[0].end(), 0.0);
    std::cout << "step " << n << ": mean of " << step.inputs()[0].name << " " << std::fixed << std::setprecision(4)
              << sum / static_cast<double>(fields[0].size()) << " " << step.inputs()[0].units << "\n";
  }

  std::ofstream forecast(words[5], std::ios::binary);
  for (const auto &field : fields)
    forecast.write(reinterpret_cast<const char *>(field.data()), static_cast<std::streamsize>(field.size() * sizeof(float)));
  if (!forecast.flush()) throw std::runtime_error(std::string("cannot write ") + words[5]);
  return 0;
} catch (const std::exception &error) {
  std::cerr << "climate: " << error.what() << "\n";
  return 1;
}
