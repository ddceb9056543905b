// Prints observations, one JSON line each.

#ifndef JOBCLIENT_REPORT_H_
#define JOBCLIENT_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "failure.h"
#include "jobgateway/v1/job_service.pb.h"
#include "watch.h"

namespace jobclient {

// Prints the observations of one step.
class Reporter {
 public:
  explicit Reporter(std::string step) : step_(std::move(step)) {}

  void Event(const jobgateway::v1::JobEvent& event);
  void Job(const jobgateway::v1::Job& job) const;
  void Failed(const Failure& failure) const;
  void Resumed(const Resumption& resumption) const;

 private:
  void Print(const char* kind, const nlohmann::json& seen) const;
  nlohmann::json Result(const jobgateway::v1::Job& job) const;

  const std::string step_;
  std::string held_;
};

}  // namespace jobclient

#endif  // JOBCLIENT_REPORT_H_
