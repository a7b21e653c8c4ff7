// caller BUNDLE: golden-free use of the C++ header; prints what a test compares.
#include <cstdio>
#include <iostream>
#include <vector>

#include "surrogate.hpp"

int main(int count, char **words) {
  if (count != 2) return 2;
  try {
    surrogate::bundle wrong("/nowhere");
    return 3;
  } catch (const surrogate::error &e) {
    std::printf("refused %d %s\n", e.status(), e.what());
  }
  surrogate::bundle first(words[1]);
  surrogate::bundle bundle(std::move(first));
  surrogate::function step(bundle, "step");
  const std::size_t samples = 3;
  std::vector<std::vector<float>> fields;
  std::vector<std::int32_t> dates;
  for (const auto &a : step.inputs()) {
    if (a.integer) {
      for (std::size_t s = 0; s < samples; s++)
        for (int field : {2001, 5, 17, 6, 0, 0}) dates.push_back(field);
      step.set(a.name, dates);
    } else {
      std::vector<float> values(a.elements() * samples);
      for (std::size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i % 97) + 200;
      fields.push_back(std::move(values));
      step.set(a.name, fields.back());
    }
  }
  std::vector<std::vector<float>> results;
  for (const auto &a : step.outputs()) {
    results.emplace_back(a.elements() * samples);
    step.into(a.name, results.back());
  }
  step.run(samples);
  for (std::size_t i = 0; i < results.size(); i++) {
    std::printf("output %s %s", step.outputs()[i].name.c_str(), step.outputs()[i].units.c_str());
    for (float v : results[i]) std::printf(" %.9g", static_cast<double>(v));
    std::printf("\n");
  }
  try {
    step.run(samples + 1);
    return 4;
  } catch (const surrogate::error &e) {
    std::printf("refused %d %s\n", e.status(), e.what());
  }
  try {
    step.set("pressure", fields[0]);
    return 5;
  } catch (const surrogate::error &e) {
    std::printf("refused %d %s\n", e.status(), e.what());
  }
  return 0;
}
