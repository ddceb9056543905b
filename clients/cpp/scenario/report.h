// Prints observations, one JSON line each.

#ifndef JOBGATEWAY_SCENARIO_REPORT_H_
#define JOBGATEWAY_SCENARIO_REPORT_H_

#include <jobgateway/client.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace scenario {

// Prints the observations of one step.
class Reporter {
 public:
  // `uid`: the job of this watch among others of the same step; 0 if it is the
  // only one.
  explicit Reporter(std::string step, std::int64_t uid = 0)
      : step_(std::move(step)), uid_(uid) {}

  // `chunks`: the chunks of the result of its job so far, put together.
  void Event(const jobgateway::v1::JobEvent& event, const std::string& chunks);
  void Job(const jobgateway::v1::Job& job, const std::string& chunks = "");
  void Failed(const jobgateway::Error& error);
  void Resumed(const jobgateway::Retry& retry);

 protected:
  void Print(const char* kind, nlohmann::json seen);
  int lines() const { return lines_; }

 private:
  const std::string step_;
  const std::int64_t uid_;
  int lines_ = 0;
  std::size_t held_ = 0;
};

// Prints the observations of a watch of many jobs.
class ManyReporter : public Reporter {
 public:
  using Reporter::Reporter;

  void Event(const jobgateway::v1::JobEvent& event, const std::string& chunks);
  void Retried(const jobgateway::Retry& retry);
  void Ended();
  using Reporter::lines;

 private:
  std::map<std::int64_t, std::size_t> held_;
  int succeeded_ = 0;
  int failed_ = 0;
  int errors_ = 0;
};

}  // namespace scenario

#endif  // JOBGATEWAY_SCENARIO_REPORT_H_
