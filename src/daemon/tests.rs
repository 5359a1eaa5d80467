//! Plans in place of each other, on real sockets.

use std::net::{TcpListener, TcpStream};

use super::*;
use crate::admin::Source as _;
use crate::config::Source;
use crate::events::process::Changes;

/// A plan of these upstreams: name, `listen` and `endpoints` as TOML, and further lines.
fn plan(upstreams: &[(&str, &str, &str, &str)]) -> Plan {
    let upstream = |(name, listen, endpoint, more): &(&str, &str, &str, &str)| {
        format!(
            "[upstreams.{name}]\nlisten = {listen}\nendpoints = [\"{endpoint}\"]\nprotocol = \"line\"\n{more}\n"
        )
    };
    Plan::new(&Source::new("test", upstreams.iter().map(upstream).collect())).unwrap()
}

fn reload(daemon: &mut Daemon, plan: Plan) -> Changes {
    let ready = daemon.prepare(&plan).unwrap();
    daemon.apply(plan, ready)
}

/// An address at which somebody listens, and one at which nobody does.
fn endpoints() -> (TcpListener, String, String) {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let text = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let (alive, dead) = (bind(), text(&bind()));
    let address = text(&alive);
    (alive, address, dead)
}

#[tokio::test]
async fn a_socket_is_kept_whatever_its_address_is_called_and_whose_it_is() {
    let (_server, endpoint, _) = endpoints();
    let one = |name: &str, listen: &str| plan(&[(name, listen, &endpoint, "")]);
    let two_ports = r#"["127.0.0.1:0", "127.0.0.1:0"]"#;
    let mut daemon = Daemon::start(one("a", two_ports)).unwrap();
    let texts = |daemon: &Daemon| -> Vec<String> {
        daemon.addresses().iter().map(|(name, address)| format!("{name} {address}")).collect()
    };
    let before = texts(&daemon);
    assert_eq!(before.len(), 2);
    reload(&mut daemon, one("a", two_ports));
    assert_eq!(texts(&daemon), before);
    reload(&mut daemon, one("a", r#""127.0.0.1:0""#));
    assert_eq!(texts(&daemon), before[..1]);

    let address = daemon.addresses()[0].1.to_string();
    let port = address.rsplit_once(':').unwrap().1;
    for (name, listen, host) in [
        ("a", format!("{address:?}"), "127.0.0.1"),
        ("b", format!("{address:?}"), "127.0.0.1"),
        ("b", format!("\"localhost:{port}\""), "127.0.0.1"),
        ("c", format!("\"127.0.0.1:{port}\""), "127.0.0.1"),
    ] {
        reload(&mut daemon, one(name, &listen));
        assert_eq!(texts(&daemon)[0], format!("{name} {host}:{port}"), "{listen}");
        TcpStream::connect((host, port.parse().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_bound_is_known_before_anything_changes() {
    let (server, endpoint, _) = endpoints();
    let mut daemon = Daemon::start(plan(&[("a", "\"127.0.0.1:0\"", &endpoint, "")])).unwrap();
    let before = daemon.addresses();
    let taken = server.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = "127.0.0.1:1";
    let wrong =
        plan(&[("a", &format!(r#"["{free}", "{taken}"]"#), other, ""), ("b", "\"127.0.0.1:0\"", other, "")]);
    assert!(matches!(daemon.prepare(&wrong), Err(Error::Bind { .. })));
    assert_eq!(daemon.addresses(), before);
    TcpListener::bind(free).unwrap();
    assert_eq!(reload(&mut daemon, plan(&[("a", "\"127.0.0.1:0\"", &endpoint, "")])).kept, 1);
}

#[tokio::test]
async fn what_changes_is_told_by_name() {
    let (_server, endpoint, _) = endpoints();
    let any = "\"127.0.0.1:0\"";
    let one = |name, more| (name, any, endpoint.as_str(), more);
    let mut daemon = Daemon::start(plan(&[one("a", ""), one("b", ""), one("c", ""), one("d", "")])).unwrap();
    let other = plan(&[
        one("a", "required = false"),
        one("b", "sockets.nodelay = false"),
        one("c", ""),
        one("e", ""),
    ]);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let expected = Changes {
        retuned: names(&["a"]),
        replaced: names(&["b"]),
        added: names(&["e"]),
        removed: names(&["d"]),
        kept: 1,
    };
    assert_eq!(reload(&mut daemon, other.clone()), expected);
    assert_eq!(reload(&mut daemon, other), Changes { kept: 4, ..Changes::default() });
}

#[tokio::test]
async fn a_replaced_upstream_has_stood_and_a_new_one_has_not() {
    let (_server, alive, dead) = endpoints();
    let any = "\"127.0.0.1:0\"";
    let mut daemon = Daemon::start(plan(&[("a", any, &alive, "")])).unwrap();
    daemon.stood().await;
    assert_eq!(daemon.state.ready(), Ok(()));
    reload(&mut daemon, plan(&[("a", any, &dead, "sockets.nodelay = false")]));
    assert_eq!(daemon.state.ready(), Ok(()));
    reload(&mut daemon, plan(&[("a", any, &dead, "sockets.nodelay = false"), ("b", any, &dead, "")]));
    assert_eq!(daemon.state.ready(), Err("the warm floor of b has not stood yet".into()));
    reload(&mut daemon, plan(&[("a", any, &alive, ""), ("b", any, &alive, "")]));
    daemon.stood().await;
    assert_eq!(daemon.state.ready(), Ok(()));
}

/// Its connections and its cap come with it.
#[tokio::test]
async fn an_upstream_that_comes_back_goes_on_where_it_was() {
    let (_server, alive, _) = endpoints();
    let one = |name| plan(&[(name, "\"127.0.0.1:0\"", &alive, "")]);
    let mut daemon = Daemon::start(one("a")).unwrap();
    daemon.stood().await;
    reload(&mut daemon, one("b"));
    reload(&mut daemon, one("a"));
    daemon.stood().await;
    while daemon.state.snapshot().upstreams.len() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let snapshot = daemon.state.snapshot();
    assert_eq!(snapshot.upstreams[0].events.name(), "a");
    let connected = snapshot.upstreams[0].events.connects.of(crate::events::ConnectResult::Ok).get();
    assert_eq!(connected, 2);
}
