//! The real binary, started from a configuration and observed from outside. Long because it is a list: what a test may set,
//! and what it may look at.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

use super::{Folder, PATIENCE, Wire, eventually, kernel};

/// The name of the upstream in every test.
pub(crate) const UPSTREAM: &str = "x";

/// A configuration with one upstream.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// As TOML.
    listen: String,
    level: String,
    global: String,
    upstream: String,
    /// Tables of further upstreams.
    others: String,
    fd_limit: Option<u32>,
}

impl Plan {
    /// Carries to `endpoint` in `mode`; the protocol is left to be set.
    pub(crate) fn without_protocol(mode: &str, endpoint: &str) -> Self {
        let listen = "\"127.0.0.1:0\"".to_owned();
        let level = "debug".to_owned();
        let [global, upstream, others] = [const { String::new() }; 3];
        Self { listen, level, global, upstream, others, fd_limit: None }
            .global("log.format", "\"json\"")
            .set("endpoints", &format!("[{endpoint:?}]"))
            .set("pool.mode", &format!("{mode:?}"))
    }

    /// Carries `wire` in `mode` to `endpoint`.
    pub(crate) fn new(wire: Wire, mode: &str, endpoint: &str) -> Self {
        let plan = Self::without_protocol(mode, endpoint);
        let thrift = |transport: &str, encoding: &str| {
            let plan = plan.clone().set("protocol.thrift.transport", &format!("{transport:?}"));
            plan.set("protocol.thrift.encoding", &format!("{encoding:?}"))
        };
        let (flags_at, id_at) = match wire {
            Wire::Dubbo => return plan.set("protocol.frame.preset", "\"dubbo\""),
            Wire::Bolt => return plan.set("protocol.frame.preset", "\"bolt\""),
            Wire::ThriftBinary => return thrift("framed", "binary"),
            Wire::ThriftCompact => return thrift("framed", "compact"),
            Wire::ThriftBuffered => return thrift("buffered", "binary"),
            Wire::JsonLine => return plan.set("protocol.jsonrpc.framing", "\"line\""),
            Wire::JsonHeader => return plan.set("protocol.jsonrpc.framing", "\"content-length\""),
            Wire::Line => return plan.set("protocol.line.error", "\"ERR {reason}\\n\""),
            Wire::Tagged => (4, Some(8)),
            Wire::Plain => (4, None),
            Wire::Wide => (8, Some(16)),
        };
        let flag =
            |flag: u8, mask: u8| format!("[{{ offset = {flags_at}, mask = {mask}, equals = {flag} }}]");
        let zeros = if wire == Wire::Wide { "00 00 00 00 00 00 00" } else { "00 00 00" };
        let id = if id_at.is_some() { "{id}" } else { "" };
        let frame = |flag: u8| {
            let length = if wire == Wire::Wide { "00 00 00 00 00 00 00 00" } else { "00 00 00 00" };
            format!("{length} {flag:02x} {zeros} {id}").trim_end().to_owned()
        };
        let header = wire.header();
        let plan = plan
            .set(
                "protocol.frame.length",
                &format!("{{ offset = 0, size = {flags_at}, endian = \"big\", adjust = {header} }}"),
            )
            .set("protocol.frame.oneway", &flag(0x01, 0x01))
            .set(
                "protocol.frame.heartbeat",
                &format!("{{ match = {}, reply = \"{}\" }}", flag(0x02, 0x12), frame(0x12)),
            )
            .set("protocol.frame.closing", &flag(0x04, 0x04))
            .set("protocol.frame.error", &format!("\"{}\"", frame(0x08)));
        match id_at {
            Some(at) => {
                plan.set("protocol.frame.id", &format!("{{ offset = {at}, size = 8, endian = \"big\" }}"))
            }
            None => plan,
        }
    }

    /// Frames without `error`: a refusal is a close.
    pub(crate) fn without_words(self) -> Self {
        self.without("protocol.frame.error")
    }

    /// Carries to these endpoints instead.
    pub(crate) fn endpoints(self, addresses: &[&str]) -> Self {
        self.without("endpoints").set("endpoints", &format!("{addresses:?}"))
    }

    /// Carries to these endpoints, of which each has a weight.
    pub(crate) fn weighted(self, endpoints: &[(&str, u32)]) -> Self {
        let table = |(address, weight)| format!("{{ address = {address:?}, weight = {weight} }}");
        let tables = endpoints.iter().copied().map(table).collect::<Vec<_>>();
        self.without("endpoints").set("endpoints", &format!("[{}]", tables.join(", ")))
    }

    /// Carries to these endpoints, and to a backup where none of them is left.
    pub(crate) fn with_backup(self, addresses: &[&str], backup: &str) -> Self {
        let first: Vec<_> = addresses.iter().map(|address| format!("{address:?}")).collect();
        let list = format!("[{}, {{ address = {backup:?}, backup = true }}]", first.join(", "));
        self.without("endpoints").set("endpoints", &list)
    }

    /// Leaves a key of the upstream out.
    pub(crate) fn without(mut self, key: &str) -> Self {
        let lines = self.upstream.lines().filter(|line| !line.starts_with(key));
        self.upstream = lines.fold(String::new(), |text, line| text + line + "\n");
        self
    }

    /// Logs at this level.
    pub(crate) fn level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.level);
        self
    }

    /// Listens there instead of on a port of the kernel's choice.
    pub(crate) fn listen(mut self, address: &str) -> Self {
        self.listen = format!("{address:?}");
        self
    }

    /// Listens on all of these.
    pub(crate) fn listen_on(mut self, addresses: &[&str]) -> Self {
        self.listen = format!("{addresses:?}");
        self
    }

    /// Adds a key of the upstream.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        writeln!(self.upstream, "{key} = {value}").unwrap();
        self
    }

    /// Adds a further upstream: that of another plan, under a name of its own.
    pub(crate) fn beside(mut self, name: &str, other: &Self) -> Self {
        let Self { listen, upstream, .. } = other;
        write!(self.others, "\n[upstreams.{name}]\nlisten = {listen}\n{upstream}").unwrap();
        self
    }

    /// Runs on so many threads.
    pub(crate) fn workers(self, count: usize) -> Self {
        self.global("limits.workers", &count.to_string())
    }

    /// Adds a key of the top level.
    pub(crate) fn global(mut self, key: &str, value: &str) -> Self {
        writeln!(self.global, "{key} = {value}").unwrap();
        self
    }

    /// Starts the daemon with a bound on its file descriptors.
    pub(crate) fn fd_limit(mut self, limit: u32) -> Self {
        self.fd_limit = Some(limit);
        self
    }

    /// The text of its file, for a daemon whose files are in `folder`.
    pub(crate) fn text(&self, folder: &Path) -> String {
        let admin = format!("unix:{}", folder.join("admin.sock").display());
        let Self { listen, level, global, upstream, others, .. } = self;
        format!(
            "{global}log.level = {level:?}\nadmin.listen = {admin:?}\n\n\
             [upstreams.{UPSTREAM}]\nlisten = {listen}\n{upstream}{others}"
        )
    }

    /// Starts the daemon and waits until its warm floor stands.
    pub(crate) fn start_ready(self) -> Daemon {
        let daemon = self.start();
        eventually("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
        daemon
    }

    /// Starts the daemon and waits until it listens.
    pub(crate) fn start(mut self) -> Daemon {
        let workers =
            std::env::var("WARMLINE_WORKERS").ok().filter(|_| !self.global.contains("limits.workers"));
        if let Some(workers) = workers {
            self = self.global("limits.workers", &workers);
        }
        let folder = Folder::new();
        let file = folder.path().join("warmline.toml");
        std::fs::write(&file, self.text(folder.path())).unwrap();
        let binary = env!("CARGO_BIN_EXE_warmline");
        let mut command = Command::new(if self.fd_limit.is_some() { "sh" } else { binary });
        if let Some(limit) = self.fd_limit {
            command.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\""), binary]);
        }
        let mut child = command
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).split(b'\n');
        let into = log.clone();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
        });
        let mut daemon = Daemon { child, log, folder, address: String::new() };
        daemon.address = eventually("listening", || {
            let exited = daemon.child.try_wait().unwrap();
            assert_eq!(exited, None, "the daemon ended: {}", daemon.log_text());
            daemon.address_of(UPSTREAM)
        });
        daemon
    }
}

/// A running warmline.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(super) folder: Folder,
    /// Where its clients connect.
    pub(crate) address: String,
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port its clients connect to.
    pub(crate) fn port(&self) -> u16 {
        kernel::port(&self.address)
    }

    /// Its log so far, line by line, as it was written.
    pub(crate) fn log(&self) -> Vec<Vec<u8>> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn log_text(&self) -> String {
        String::from_utf8_lossy(&self.log().join(&b'\n')).into_owned()
    }

    /// Where clients of an upstream connect, once it listens.
    pub(crate) fn address_of(&self, upstream: &str) -> Option<String> {
        let listening = self.events("listening", upstream);
        listening.iter().find_map(|event| Some(event["address"].as_str()?.to_owned()))
    }

    /// The fields of all log lines of an upstream that say `message`.
    fn events(&self, message: &str, upstream: &str) -> Vec<Value> {
        let lines = self.log();
        let values = lines.iter().filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let fields =
            values.map(|mut line| if line["fields"].is_object() { line["fields"].take() } else { line });
        fields.filter(|fields| fields["message"] == message && fields["upstream"] == upstream).collect()
    }

    /// Status and body of an answer of the admin endpoint; status 0 if it gave none.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).unwrap_or_default()
    }

    fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.folder.path().join("admin.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// One scrape.
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "no metrics: {body}");
        Metrics(body)
    }

    /// The sum of a metric over all series that have these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.metrics().sum(name, labels)
    }

    /// What a gauge of the upstream that has time in it tells.
    pub(crate) fn seconds(&self, name: &str) -> Duration {
        Duration::from_secs_f64(self.metrics().value(name, &[("upstream", UPSTREAM)]))
    }

    /// Requests that ended in this way.
    pub(crate) fn outcome(&self, outcome: &str) -> u64 {
        self.metric("requests_total", &[("upstream", UPSTREAM), ("outcome", outcome)])
    }

    /// Its sockets towards this upstream address, connecting ones included.
    pub(crate) fn upstream_sockets(&self, address: &str) -> usize {
        self.sockets_towards(&[address])
    }

    /// The same, for several of them at the same moment.
    pub(crate) fn sockets_towards(&self, addresses: &[&str]) -> usize {
        let ports = addresses.iter().map(|address| kernel::port(address)).collect::<Vec<_>>();
        kernel::sockets_of(self.pid(), &ports)
    }

    /// The most memory it had at a time so far, in bytes, as the kernel counts it.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// What `warmline check` says that it needs at most, in bytes.
    pub(crate) fn memory_bound(&self) -> u64 {
        let file = self.folder.path().join("warmline.toml");
        let binary = env!("CARGO_BIN_EXE_warmline");
        let output = Command::new(binary).arg("check").arg(file).args(["--format", "json"]).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["memory_bound_bytes"].as_u64().unwrap()
    }

    /// Waits until it has nothing to do any more.
    pub(crate) fn wait_still(&self) {
        let look = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            let words = stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect::<Vec<_>>();
            (words[0].clone(), words[11].clone(), words[12].clone())
        };
        let (mut last, mut same) = (look(), 0);
        eventually("a daemon that sleeps", || {
            std::thread::sleep(Duration::from_millis(10));
            let now = look();
            same = if now == last && now.0 == "S" { same + 1 } else { 0 };
            last = now;
            (same >= 12).then_some(())
        });
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().count()
    }

    /// How many file descriptors the reactor of each thread knows.
    pub(crate) fn known_to_reactors(&self) -> Vec<usize> {
        let proc = format!("/proc/{}", self.pid());
        let fds = std::fs::read_dir(format!("{proc}/fd")).unwrap().flatten();
        let is_reactor = |path: &Path| {
            std::fs::read_link(path).is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]")
        };
        let mut fds = fds.filter(|fd| is_reactor(&fd.path())).map(|fd| fd.file_name()).collect::<Vec<_>>();
        fds.sort();
        let info =
            |fd: &OsString| std::fs::read_to_string(format!("{proc}/fdinfo/{}", fd.display())).unwrap();
        fds.iter().map(|fd| info(fd).matches("tfd:").count()).collect()
    }

    /// File descriptors it holds.
    pub(crate) fn open_fds(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count() as u64
    }

    /// What `warmline check` prints as its bounds.
    pub(crate) fn bounds(&self) -> Value {
        let file = self.folder.path().join("warmline.toml");
        let mut check = Command::new(env!("CARGO_BIN_EXE_warmline"));
        let output = check.args(["check", "--format", "json"]).arg(file).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Bounds its file descriptors from now on; gives the bound that held before.
    pub(crate) fn limit_fds(&self, limit: u64) -> u64 {
        let pid = Pid::from_child(&self.child);
        let maximum = getrlimit(Resource::Nofile).maximum;
        let before = prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum });
        before.unwrap().current.unwrap()
    }

    /// At rest every accepted request has exactly one outcome.
    #[track_caller]
    pub(crate) fn assert_conserved(&self) {
        let at_rest = || {
            let metrics = self.metrics();
            (metrics.sum("requests_in_flight", &[]) == 0).then_some(metrics)
        };
        let metrics = eventually("nothing in flight", at_rest);
        assert_eq!(metrics.sum("accepted_total", &[]), metrics.sum("requests_total", &[]));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status, once it has ended by itself.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        eventually("the end of the daemon", || self.child.try_wait().unwrap()).code()
    }

    /// Asks it to drain and waits for its end.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait()
    }
}

/// The text of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum of a metric over all series that have these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        format!("{:.0}", self.value(name, labels)).parse().unwrap()
    }

    /// The same, with its fractions.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let name = format!("warmline_{name}");
        let series = |line: &str| {
            Some(line.strip_prefix(&name)?.rsplit_once(' ')?).map(|(l, v)| (l.to_owned(), v.parse::<f64>()))
        };
        let all = self
            .0
            .lines()
            .filter_map(series)
            .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
        let all = all.collect::<Vec<_>>();
        assert!(!all.is_empty(), "no metric {name} in\n{}", self.0);
        let has_all =
            |text: &str| labels.iter().all(|(label, word)| text.contains(&format!("{label}=\"{word}\"")));
        let sum =
            all.into_iter().filter(|(text, _)| has_all(text)).map(|(_, value)| value.unwrap()).sum::<f64>();
        assert!(sum >= 0.0, "{name} is {sum}");
        sum
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log_text());
        }
    }
}
