//! The read-only admin endpoint: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.
//!
//! Invariant: nobody who reaches it can change anything, and no peer holds one of its few connections
//! for longer than `PATIENCE`. The daemon calls [`run`] and answers through a [`Source`].

mod metrics;
mod snapshot;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::events::process;
use crate::lifecycle::{Phase, Watch};
use crate::net::{self, Address};
use crate::wire::Wire;

pub use snapshot::{Connections, Endpoint, Snapshot, Source, Upstream};

/// Connections of a listener at a time; the daemon keeps as many file descriptors free.
pub const MAX_CONNECTIONS: usize = 16;
/// Longest time for a request head.
const HEAD: Duration = Duration::from_secs(5);
/// Longest life of a connection: one request, one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest request head in bytes; what hyper needs at least.
const MAX_HEAD: usize = 8192;
/// Pause after a failed accept: descriptors that ran out do not come back at once.
const PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";

/// What the endpoint needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen: unix sockets or loopback.
    pub addresses: Vec<Address>,
}

/// Where connections come from: a listening socket, or a test.
pub trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Must be cancel-safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for net::Listener {
    type Io = Wire;

    async fn accept(&mut self) -> io::Result<Wire> {
        net::Listener::accept(self).await.map(Wire::from)
    }
}

/// Serves until `watch` says stopped: a drain can be observed to its end.
pub async fn run<A: Accept>(listeners: Vec<A>, source: Arc<dyn Source>, mut watch: Watch) {
    let events = Arc::new(process::Admin::default());
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept_from(listener, source.clone(), events.clone()));
    }
    watch.reached(Phase::Stopped).await;
    // Dropping the set ends the loops, and with them their connections.
}

async fn accept_from<A: Accept>(mut listener: A, source: Arc<dyn Source>, events: Arc<process::Admin>) {
    let mut connections = JoinSet::new();
    let mut by_age = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok(io) => {
                while connections.try_join_next().is_some() {}
                by_age.retain(|handle: &AbortHandle| !handle.is_finished());
                if by_age.len() == MAX_CONNECTIONS
                    && let Some(oldest) = by_age.pop_front()
                {
                    // Whoever holds connections and asks nothing must not keep a probe out.
                    oldest.abort();
                    connections.join_next().await;
                }
                by_age.push_back(connections.spawn(serve_connection(io, source.clone())));
            }
            Err(fault) => {
                events.accept_failed(&fault);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request and closes. A peer's faults are its own: they end the connection and nothing else.
pub async fn serve_connection<S>(io: S, source: Arc<dyn Source>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<_>| {
        let response = answer(request.method(), request.uri().path(), &*source);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(io), service);
    let _ = timeout(PATIENCE, connection).await;
}

fn answer(method: &Method, path: &str, source: &dyn Source) -> Response<Full<Bytes>> {
    let known = matches!(path, "/metrics" | "/healthz" | "/readyz");
    if known && method != Method::GET && method != Method::HEAD {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics::encode(source.snapshot())),
        "/healthz" => respond(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match source.ready() {
            Ok(()) => respond(StatusCode::OK, TEXT, "ready\n"),
            Err(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n"),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};
    use hyper::client::conn::http1 as client;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::lifecycle::Switch;

    struct Daemon(Result<(), String>);

    impl Source for Daemon {
        fn ready(&self) -> Result<(), String> {
            self.0.clone()
        }

        fn snapshot(&self) -> Snapshot {
            Snapshot { max_fds: 7, ..Snapshot::default() }
        }
    }

    fn ready() -> Arc<dyn Source> {
        Arc::new(Daemon(Ok(())))
    }

    struct Answer {
        status: u16,
        headers: hyper::HeaderMap,
        body: String,
    }

    async fn ask(source: Arc<dyn Source>, method: &str, path: &str) -> Answer {
        let (near, far) = duplex(64);
        let server = tokio::spawn(serve_connection(far, source));
        let (mut sender, connection) = client::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header("host", "x").body(Empty::<Bytes>::new());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        server.await.unwrap();
        Answer { status, headers, body: String::from_utf8(body.into()).unwrap() }
    }

    #[tokio::test]
    async fn metrics_are_openmetrics() {
        let answer = ask(ready(), "GET", "/metrics").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers[CONTENT_TYPE], metrics::CONTENT_TYPE);
        assert!(answer.body.contains("\nwarmline_max_fds 7\n"));
        assert!(answer.body.ends_with("\n# EOF\n"));
    }

    #[tokio::test]
    async fn health_does_not_depend_on_readiness() {
        let source: Arc<dyn Source> = Arc::new(Daemon(Err("draining".into())));
        let healthy = ask(source.clone(), "GET", "/healthz").await;
        assert_eq!((healthy.status, &*healthy.body), (200, "ok\n"));
        let unready = ask(source, "GET", "/readyz").await;
        assert_eq!((unready.status, &*unready.body), (503, "draining\n"));
        let ready = ask(ready(), "GET", "/readyz?verbose=1").await;
        assert_eq!((ready.status, &*ready.body), (200, "ready\n"));
    }

    #[tokio::test]
    async fn head_is_get_without_a_body() {
        let get = ask(ready(), "GET", "/metrics").await;
        let head = ask(ready(), "HEAD", "/metrics").await;
        assert_eq!((head.status, &*head.body), (200, ""));
        assert_eq!(head.headers["content-length"], get.headers["content-length"]);
    }

    #[tokio::test]
    async fn nothing_else_is_offered() {
        for path in ["/", "/status", "/metrics/", "//metrics", "/../metrics", "/READYZ"] {
            assert_eq!(ask(ready(), "GET", path).await.status, 404, "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECTED"] {
            let answer = ask(ready(), method, "/metrics").await;
            assert_eq!(answer.status, 405, "{method}");
            assert_eq!(answer.headers[ALLOW], "GET, HEAD");
        }
    }

    /// Sends bytes and reads until the server closes; the answer, and the time it took.
    async fn raw(bytes: &[u8]) -> (String, Duration) {
        let (mut near, far) = duplex(1 << 20);
        let start = Instant::now();
        let server = tokio::spawn(serve_connection(far, ready()));
        near.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        server.await.unwrap();
        (String::from_utf8(answer).unwrap(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_a_connection() {
        let (answer, _) =
            raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1);
        assert!(answer.contains("connection: close"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_client_is_answered() {
        let (mut near, far) = duplex(1 << 20);
        near.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
        near.shutdown().await.unwrap();
        serve_connection(far, ready()).await;
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_and_endless_heads_end_the_connection() {
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"GET\r\n\r\n", &vec![b'\n'; 100_000]] {
            let (answer, took) = raw(bytes).await;
            assert!(!answer.contains(" 200 "), "{answer}");
            assert!(took <= HEAD, "{took:?}");
        }
        let endless = [b"GET /healthz HTTP/1.1\r\nx: ".as_slice(), &vec![b'x'; 100_000]].concat();
        assert!(raw(&endless).await.0.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_cut() {
        for bytes in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost:"] {
            let (answer, took) = raw(bytes).await;
            assert!(!answer.contains(" 200 "), "{answer}");
            assert_eq!(took.as_secs(), HEAD.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut() {
        let (mut near, far) = duplex(64);
        let start = Instant::now();
        let server = tokio::spawn(serve_connection(far, ready()));
        near.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), PATIENCE.as_secs());
    }

    struct Door(mpsc::Receiver<io::Result<DuplexStream>>);

    impl Accept for Door {
        type Io = DuplexStream;

        async fn accept(&mut self) -> io::Result<DuplexStream> {
            match self.0.recv().await {
                Some(knock) => knock,
                None => std::future::pending().await,
            }
        }
    }

    async fn answered(mut near: DuplexStream) -> bool {
        near.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.is_ok() && answer.ends_with("ok\n")
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_are_bounded_and_make_room() {
        let (knock, door) = mpsc::channel(64);
        let switch = Switch::new();
        let running = tokio::spawn(run(vec![Door(door)], ready(), switch.watch()));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let (near, far) = duplex(64);
            knock.send(Ok(far)).await.unwrap();
            silent.push(near);
        }
        let (near, far) = duplex(1024);
        knock.send(Ok(far)).await.unwrap();
        let start = Instant::now();
        assert!(answered(near).await);
        assert_eq!(start.elapsed(), Duration::ZERO, "the oldest silent one was cut");
        assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0);
        switch.stop();
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_accept_is_tried_again_after_a_pause() {
        let (knock, door) = mpsc::channel(64);
        let switch = Switch::new();
        let running = tokio::spawn(run(vec![Door(door)], ready(), switch.watch()));
        let start = Instant::now();
        for _ in 0..3 {
            knock.send(Err(io::Error::from_raw_os_error(libc::EMFILE))).await.unwrap();
        }
        let (near, far) = duplex(1024);
        knock.send(Ok(far)).await.unwrap();
        assert!(answered(near).await);
        assert_eq!(start.elapsed().as_millis(), 3 * PAUSE.as_millis());
        switch.stop();
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_observed_to_its_end() {
        let (knock, door) = mpsc::channel(64);
        let switch = Switch::new();
        let running = tokio::spawn(run(vec![Door(door)], ready(), switch.watch()));
        switch.drain();
        let (near, far) = duplex(1024);
        knock.send(Ok(far)).await.unwrap();
        assert!(answered(near).await);
        let (mut near, far) = duplex(1024);
        knock.send(Ok(far)).await.unwrap();
        switch.stop();
        running.await.unwrap();
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "stopped at once");
    }
}
