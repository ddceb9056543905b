// Prints observations, one JSON line each.

#ifndef JOBCLIENT_REPORT_H_
#define JOBCLIENT_REPORT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "failure.h"
#include "jobgateway/v1/job_service.pb.h"
#include "rules.h"

namespace jobclient {

// Prints the observations of one step.
class Reporter {
 public:
  explicit Reporter(std::string step) : step_(std::move(step)) {}

  // `chunks`: the chunks of the result of its job so far, put together.
  void Event(const jobgateway::v1::JobEvent& event, const std::string& chunks);
  void Job(const jobgateway::v1::Job& job, const std::string& chunks = "");
  void Failed(const Failure& failure);
  void Resumed(const Resumption& resumption);

 protected:
  void Print(const char* kind, const nlohmann::json& seen);
  int lines() const { return lines_; }

 private:
  const std::string step_;
  int lines_ = 0;
  std::size_t held_ = 0;
};

// Prints the observations of a watch of many jobs.
class ManyReporter : public Reporter {
 public:
  using Reporter::Reporter;

  void Event(const jobgateway::v1::JobEvent& event, const std::string& chunks);
  void Resumed(const Resumption& resumption, std::size_t jobs);
  void Again(std::int64_t uid, const Failure& failure);
  void Ended();
  using Reporter::lines;

 private:
  std::map<std::int64_t, std::size_t> held_;
  int succeeded_ = 0;
  int failed_ = 0;
  int errors_ = 0;
};

}  // namespace jobclient

#endif  // JOBCLIENT_REPORT_H_
