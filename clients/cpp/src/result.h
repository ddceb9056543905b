// The result of a job.

#ifndef JOBGATEWAY_SRC_RESULT_H_
#define JOBGATEWAY_SRC_RESULT_H_

#include <jobgateway/error.h>
#include <jobgateway/v1/job_service.pb.h>

#include <optional>
#include <string>

namespace jobgateway::internal {

// Returns an error with DATA_LOSS if the bytes of the result of a done job, in
// `chunks` or in the job itself, do not match its size and SHA-256. A Struct
// has no hash. `complete`: the call delivers every result, if need be in
// chunks, so that one that has not arrived is damaged, too.
std::optional<Error> DamageOf(const v1::Job& job, const std::string& chunks,
                              bool complete);

// The bytes of a result that arrives in chunks, and the check of every result.
class Result {
 public:
  // `format` is that of the request.
  explicit Result(v1::ContentFormat format);

  // Takes an event of the job. Returns an error if it is the end of the job,
  // and the result is damaged.
  std::optional<Error> Take(const v1::JobEvent& event);

  // Returns the chunks so far, put together; empty if none have arrived.
  const std::string& chunks() const { return chunks_; }

 private:
  bool complete_;
  std::string chunks_;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_RESULT_H_
