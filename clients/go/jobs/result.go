package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	pb "jobclient/gen/jobgateway/v1"
)

// Result holds the bytes of a result that arrives in chunks.
type Result []byte

// deliversResult reports whether a stream delivers the result of its job.
func deliversResult(req *pb.WatchJobRequest) bool {
	return req.GetContentFormat() != pb.ContentFormat_CONTENT_FORMAT_NONE
}

// ResultOf returns the result of a job that has ended, as JSON, in whichever form it arrived. It is empty if there is none,
// or if it did not arrive (Job.ContentOmitted).
func ResultOf(item Item) ([]byte, error) {
	job := item.Event.GetJob()
	switch {
	case !job.GetDone():
		return nil, nil
	case job.GetContent() != nil:
		text, err := json.Marshal(job.GetContent().AsMap())
		if err != nil {
			return nil, fmt.Errorf("the result of job %d: %w", job.GetUid(), err)
		}
		return text, nil
	case job.GetContentOmitted():
		return item.Result, nil
	}
	return job.GetContentJson(), nil
}

// take adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume.
func (r *Result) take(chunk *pb.ContentChunk) {
	if offset := max(0, chunk.GetOffset()); offset < int64(len(*r)) {
		*r = slices.Clip((*r)[:offset]) // the items before keep their bytes
	}
	*r = append(*r, chunk.GetData()...)
}

// soFar returns the bytes for an item. What the caller appends to them does not change those of later items.
func (r Result) soFar() Result { return slices.Clip(r) }

// verify returns an error if the bytes of the result of a done job, in chunks or in the job itself, are not those that
// the gateway announced. A Struct has no hash. delivered: the call delivers every result, if need be in chunks.
func (r Result) verify(job *pb.Job, delivered bool) *Error {
	data := job.GetContentJson()
	if job.GetContentOmitted() {
		data = r
	}
	// The gateway does not keep the result of a job without a uid.
	left := job.GetContentOmitted() && len(data) == 0 && (!delivered || job.GetUid() == 0)
	if job.GetContentSize() == 0 || job.GetContent() != nil || left {
		return nil
	}
	var problem string
	switch sum := sha256.Sum256(data); {
	case len(data) == 0:
		problem = fmt.Sprintf("nothing of its %d bytes arrived", job.GetContentSize())
	case int64(len(data)) != job.GetContentSize():
		problem = fmt.Sprintf("%d of %d bytes arrived", len(data), job.GetContentSize())
	case hex.EncodeToString(sum[:]) != job.GetContentSha256():
		problem = fmt.Sprintf("its %d bytes have the wrong SHA-256", len(data))
	default:
		return nil
	}
	return &Error{
		Code:     codes.DataLoss,
		Message:  fmt.Sprintf("the result of job %d is damaged: %s; read the job again", job.GetUid(), problem),
		Metadata: map[string]string{"uid": strconv.FormatInt(job.GetUid(), 10)},
	}
}
