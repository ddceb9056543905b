//! The bearer token of a client, and the login that renews it.

use std::error;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use tonic::metadata::{Ascii, MetadataValue};

use crate::failure::Error;

pub(crate) type BoxError = Box<dyn error::Error + Send + Sync>;
/// The value of the header.
pub(crate) type Token = Option<MetadataValue<Ascii>>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(crate) type LoginFunction =
    Arc<dyn Fn() -> Boxed<Result<Option<String>, BoxError>> + Send + Sync>;

/// A token that no header can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token has a line break or another character that no header can carry: remove white space at its ends"
)]
#[non_exhaustive]
pub struct TokenError;

/// The token of a client.
pub(crate) struct Tokens {
    login: Option<LoginFunction>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// `None` before the first login.
    token: Option<Token>,
    /// The login that runs now. Its callers keep it alive, so it ends if none of them is left.
    running: Option<WeakShared<Boxed<Result<Token, Error>>>>,
}

/// A login that a call waits for. It continues without being polled by this call if another one waits for it, too.
pub(crate) struct Login {
    outcome: Shared<Boxed<Result<Token, Error>>>,
    /// Another call began it.
    joined: bool,
}

/// Returns the header value of a token.
pub(crate) fn bearer(token: &str) -> Result<MetadataValue<Ascii>, TokenError> {
    let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    let value = is_visible.then(|| MetadataValue::try_from(format!("Bearer {token}")));
    let mut value = value.and_then(Result::ok).ok_or(TokenError)?;
    value.set_sensitive(true); // keeps it out of logs
    Ok(value)
}

/// Boxes a login function of a user.
pub(crate) fn boxed<F, R, E>(login: F) -> LoginFunction
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Option<String>, E>> + Send + 'static,
    E: Into<BoxError>,
{
    Arc::new(move || {
        let token = login();
        Box::pin(async { token.await.map_err(Into::into) })
    })
}

impl Tokens {
    /// Creates the token of a client. Without a `login`, the token never changes.
    pub fn new(token: Token, login: Option<LoginFunction>) -> Self {
        let state = State {
            token: login.is_none().then_some(token),
            running: None,
        };
        Self {
            login,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Returns the token, after the first login. `login` keeps a login that is not awaited to its end.
    pub async fn get(&self, login: &mut Option<Login>) -> Result<Token, Error> {
        self.token(None, login).await
    }

    /// Logs in, unless another call has replaced the token used already. Returns the token for the next call, or `None` if
    /// there is no login, or if it returns none.
    pub async fn renew(&self, used: &Token, login: &mut Option<Login>) -> Result<Token, Error> {
        self.token(Some(used), login).await
    }

    async fn token(
        &self,
        rejected: Option<&Token>,
        kept: &mut Option<Login>,
    ) -> Result<Token, Error> {
        loop {
            let login = match kept {
                Some(login) => login,
                None => {
                    let mut state = lock(&self.state);
                    match &state.token {
                        Some(token) if rejected != Some(token) => return Ok(token.clone()),
                        _ => {}
                    }
                    let Some(function) = self.login.clone() else {
                        return Ok(None);
                    };
                    kept.insert(self.join(&mut state, function))
                }
            };
            let outcome = (&mut login.outcome).await;
            let joined = kept.take().is_some_and(|login| login.joined);
            // Its error belongs to the call that began the login. The others ask again.
            if outcome.is_ok() || !joined {
                return outcome;
            }
        }
    }

    /// Joins the login that runs now, or begins one.
    fn join(&self, state: &mut State, function: LoginFunction) -> Login {
        let running = state.running.as_ref().and_then(WeakShared::upgrade);
        if let Some(outcome) = running {
            return Login {
                outcome,
                joined: true,
            };
        }
        let outcome = AssertUnwindSafe(async move { function().await }).catch_unwind();
        let state_of_client = self.state.clone();
        let outcome: Boxed<_> = Box::pin(async move {
            let token = outcome
                .await
                .unwrap_or_else(|_| Err("the function panicked".into()))
                .and_then(|token| Ok(token.as_deref().map(bearer).transpose()?))
                .map_err(|error| Error::Login(error.into()));
            let mut state = lock(&state_of_client);
            state.running = None;
            match &token {
                // A client without a token may get one later, if the gateway rejects its calls.
                Ok(fresh) if fresh.is_some() || state.token.is_none() => {
                    state.token = Some(fresh.clone());
                }
                _ => {}
            }
            token
        });
        let outcome = outcome.shared();
        state.running = outcome.downgrade();
        Login {
            outcome,
            joined: false,
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
