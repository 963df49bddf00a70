//! The router's interface to a foreign protocol below a path of its own.
//!
//! `doors` implements it, one folder a protocol. This module keeps `http` free of their names.
//!
//! Imports its siblings. Imported by `http`, `http::router` and `doors`.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use hyper::Request;
use hyper::body::Incoming;

use super::RequestContext;
use super::reply::{Problem, Reply};

/// A dialect's answer under way. It runs on the thread of the request's shard.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Reply, Problem>> + 'a>>;

/// A foreign protocol. The router calls it when the head, the host and the origin of a request are
/// accepted; the dialect checks credentials and scopes.
pub trait Dialect: Debug + Send + Sync {
    /// The part of a path below the dialect's mount point. None if the path is not the dialect's.
    fn below<'a>(&self, path: &'a str) -> Option<&'a str>;

    /// The methods of the resource at `rest`, as `Allow` lists them. None if there is no such resource.
    fn methods(&self, rest: &str) -> Option<&'static str>;

    /// Answers a request for the resource at `rest`.
    fn answer<'a>(
        &'a self,
        context: &'a RequestContext,
        request: Request<Incoming>,
        rest: &'a str,
    ) -> Answering<'a>;
}
