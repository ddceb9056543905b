// The result of a job.

#ifndef JOBCLIENT_RESULT_H_
#define JOBCLIENT_RESULT_H_

#include <grpcpp/grpcpp.h>

#include <string>

#include "jobgateway/v1/job_service.pb.h"

namespace jobclient {

// The bytes of a result that arrives in chunks, and the check of every result.
class Result {
 public:
  // `format` is that of the request.
  explicit Result(jobgateway::v1::ContentFormat format) : format_(format) {}

  // Takes an event of the job. Returns false if it is the end of the job, and
  // the result is incomplete or does not match its SHA-256.
  bool Take(const jobgateway::v1::JobEvent& event);

  // Returns the chunks so far, put together; empty if none have arrived.
  const std::string& chunks() const { return chunks_; }

 private:
  bool IsIntact(const jobgateway::v1::Job& job) const;

  jobgateway::v1::ContentFormat format_;
  std::string chunks_;
};

// Returns the status of a watch whose result is incomplete or damaged.
grpc::Status DamagedResult();

// Returns the hash in lower-case hexadecimal.
std::string Sha256(const std::string& bytes);

}  // namespace jobclient

#endif  // JOBCLIENT_RESULT_H_
