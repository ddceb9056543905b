use std::fmt;

use tonic_types::ErrorDetails;

use super::*;

#[derive(Debug)]
struct Cause(&'static str, Option<Box<Cause>>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl error::Error for Cause {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(self.1.as_deref()?)
    }
}

#[test]
fn the_causes_of_a_broken_connection_are_named() {
    let cause = Cause("certificate expired", None);
    let error = Cause("transport error", Some(Box::new(cause)));
    let failure = Failure::from(Status::from_error(Box::new(error)));
    assert_eq!(failure.message, "transport error: certificate expired");
    assert_eq!(failure.code, Code::Unavailable);
}

#[test]
fn each_problem_of_a_field_is_kept() {
    let mut details = ErrorDetails::with_bad_request_violation("params", "too deep");
    details.add_bad_request_violation("params", "too large");
    let status = Status::with_error_details(Code::InvalidArgument, "invalid", details);
    let problem = |text: &str| ("params".to_owned(), text.to_owned());
    let fields = Failure::from(status).fields;
    assert_eq!(*fields, [problem("too deep"), problem("too large")]);
}

#[test]
fn a_submission_that_may_have_created_a_job_needs_an_id() {
    let failure = |code, reason: &str| Failure {
        reason: reason.into(),
        ..Failure::new(code, "")
    };
    let cases = [
        (Code::Unavailable, "UPSTREAM_UNAVAILABLE", true, true),
        (Code::Unavailable, "", false, true),
        (Code::Ok, "", false, true),
        (Code::Unknown, "SUBMIT_OUTCOME_UNKNOWN", false, false),
        (Code::InvalidArgument, "INVALID_REQUEST", false, false),
    ];
    for (code, reason, without, with) in cases {
        let failure = failure(code, reason);
        assert_eq!(failure.may_send_again(false), without, "{failure}");
        assert_eq!(failure.may_send_again(true), with, "{failure}");
    }
    let named = Failure {
        metadata: BTreeMap::from([("uid".into(), "7".into())]),
        ..failure(Code::Unavailable, "NO_STATE_YET")
    };
    assert!(!named.may_send_again(true));
}

#[test]
fn an_error_is_one_line_for_people() {
    let mut failure = Failure::new(Code::NotFound, "no such job");
    assert_eq!(failure.to_string(), "no such job [NotFound]");
    failure.reason = "JOB_NOT_FOUND".into();
    assert_eq!(failure.to_string(), "no such job [NotFound, JOB_NOT_FOUND]");
}
