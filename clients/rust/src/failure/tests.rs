use super::*;

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
