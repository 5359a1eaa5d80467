//! JSON-RPC servers that do not say what they answer.

use super::*;
use crate::protocol::jsonrpc::{JsonRpc, Settings};

/// What has come.
async fn got(wire: &mut Wire) -> String {
    settle().await;
    let mut bytes = vec![0; 4096];
    let read = wire.try_read(&mut bytes).unwrap_or(0);
    String::from_utf8(bytes[..read].to_vec()).unwrap()
}

/// The id of the request in `line`.
fn id(line: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap()
}

/// In order, the next reply shows that those before it get none: they are told at once, the others get theirs.
#[tokio::test(start_paused = true)]
async fn in_pipeline_an_error_without_an_id_costs_no_neighbour_its_reply() {
    let protocol: Arc<dyn Protocol> = Arc::new(JsonRpc::new(Settings::default()).unwrap());
    let mut front = Front::with(Mode::Pipeline, protocol, |_| {}, Budget::new(1 << 28));
    let mut server = front.server().await;
    let mut clients = [(); 4].map(|()| front.connect());
    for client in &mut clients {
        client.wire.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"id\":\"x\"}\n").await.unwrap();
        settle().await;
    }
    let ids: Vec<u64> = got(&mut server.wire).await.lines().map(id).collect();
    let [first, _, third, fourth] = ids[..] else { panic!("{ids:?}") };
    let [mut a, mut b, mut c, mut d] = clients;
    let unknown = "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32700,\"message\":\"?\"},\"id\":null}\n";
    server.wire.write_all(format!("{unknown}{unknown}").as_bytes()).await.unwrap();
    assert_eq!(got(&mut a.wire).await, "");
    let replies = format!("{{\"result\":3,\"id\":{third}}}\n{{\"result\":4,\"id\":{fourth}}}\n");
    server.wire.write_all(replies.as_bytes()).await.unwrap();
    for client in [&mut a, &mut b] {
        let said = got(&mut client.wire).await;
        assert!(said.contains("-32056") && said.contains("\"x\""), "{said}");
    }
    assert_eq!(got(&mut c.wire).await, "{\"id\":\"x\",\"result\":3}\n");
    assert_eq!(got(&mut d.wire).await, "{\"id\":\"x\",\"result\":4}\n");
    // All is over: the connection is there for the next one, and a reply that comes after all ends it.
    a.wire.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"id\":9}\n").await.unwrap();
    let fifth = id(&got(&mut server.wire).await);
    server.wire.write_all(format!("{{\"result\":5,\"id\":{fifth}}}\n").as_bytes()).await.unwrap();
    assert_eq!(got(&mut a.wire).await, "{\"id\":9,\"result\":5}\n");
    a.wire.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"id\":10}\n").await.unwrap();
    assert_eq!(id(&got(&mut server.wire).await), fifth + 1);
    server.wire.write_all(format!("{{\"result\":1,\"id\":{first}}}\n").as_bytes()).await.unwrap();
    let said = got(&mut a.wire).await;
    assert!(said.contains("-32056") && said.contains("\"id\":10"), "{said}");
}

/// What gets no reply because a later one has come in order is forgotten by all who knew of it.
#[tokio::test(start_paused = true)]
async fn in_pipeline_nothing_is_kept_of_what_a_reply_overtakes() {
    let protocol = Fragile::new(Arc::new(JsonRpc::new(Settings::default()).unwrap()));
    let held = protocol.held.clone();
    let mut front = Front::with(Mode::Pipeline, Arc::new(protocol), |_| {}, Budget::new(1 << 28));
    let mut server = front.server().await;
    let (mut evil, mut good) = (front.connect(), front.connect());
    let (mut after_one, mut after_all) = (0, 0);
    for _ in 0..100 {
        for client in [&mut evil, &mut good] {
            client.wire.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"id\":1}\n").await.unwrap();
            settle().await;
        }
        let second = got(&mut server.wire).await.lines().map(id).next_back().unwrap();
        server.wire.write_all(format!("{{\"result\":1,\"id\":{second}}}\n").as_bytes()).await.unwrap();
        assert!(got(&mut evil.wire).await.contains("-32056"));
        assert_eq!(got(&mut good.wire).await, "{\"id\":1,\"result\":1}\n");
        after_all = held.load(Ordering::Relaxed);
        after_one = if after_one == 0 { after_all } else { after_one };
    }
    assert!(after_all <= after_one + 8, "{after_one} grew to {after_all}");
}

/// Python's library writes numbers that are none, and what a method returns may be up to a client.
#[tokio::test(start_paused = true)]
async fn an_odd_result_costs_no_neighbour_its_reply() {
    let deep = ["[", "]"].map(|bracket| bracket.repeat(5000)).concat();
    for odd in ["NaN", "-Infinity", "[Infinity]", "\"a\tb\u{1}\"", &*deep] {
        let protocol: Arc<dyn Protocol> = Arc::new(JsonRpc::new(Settings::default()).unwrap());
        let mut front = Front::with(Mode::Multiplex, protocol, |_| {}, Budget::new(1 << 28));
        let mut server = front.server().await;
        let (mut a, mut b) = (front.connect(), front.connect());
        for client in [&mut a, &mut b] {
            client.wire.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"id\":1}\n").await.unwrap();
            settle().await;
        }
        let ids: Vec<u64> = got(&mut server.wire).await.lines().map(id).collect();
        let replies =
            format!("[]\n{{\"result\":{odd},\"id\":{}}}\n{{\"result\":1,\"id\":{}}}\n", ids[0], ids[1]);
        tokio::spawn(async move { server.wire.write_all(replies.as_bytes()).await.map(|()| server) });
        assert_eq!(got(&mut b.wire).await, "{\"id\":1,\"result\":1}\n");
        let expected = format!("{{\"id\":1,\"result\":{odd}}}\n");
        let mut said = vec![0; expected.len()];
        a.wire.read_exact(&mut said).await.unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), expected);
    }
}

/// It is neither a request nor the beginning of one.
#[tokio::test(start_paused = true)]
async fn white_space_keeps_nobody() {
    let protocol: Arc<dyn Protocol> = Arc::new(JsonRpc::new(Settings::default()).unwrap());
    let mut front = Front::with(Mode::Multiplex, protocol, |_| {}, Budget::new(1 << 28));
    let _server = front.server().await;
    let mut client = front.connect();
    let begun = Instant::now();
    while client.wire.write_all(b" ").await.is_ok() && !client.session.is_finished() {
        tokio::time::sleep(SECOND).await;
        assert!(begun.elapsed() < 12 * SECOND, "timeouts.client_read");
    }
}

/// A few bytes must not bring about many, which nobody has counted.
#[tokio::test(start_paused = true)]
async fn errors_of_a_batch_are_as_short_as_the_batch() {
    let protocol: Arc<dyn Protocol> = Arc::new(JsonRpc::new(Settings::default()).unwrap());
    let mut front = Front::with(Mode::Multiplex, protocol, |_| {}, Budget::new(1 << 28));
    let mut server = front.server().await;
    let mut client = front.connect();
    let faults = |count: usize| format!("[{}1]\n", "1,".repeat(count - 1));
    client.wire.write_all(faults(30).as_bytes()).await.unwrap();
    assert_eq!(got(&mut client.wire).await.matches("-32600").count(), 30);
    client.wire.write_all(faults(1000).as_bytes()).await.unwrap();
    assert_eq!(got(&mut client.wire).await.matches("-32600").count(), 1);

    let call = r#"{"jsonrpc":"2.0","method":"a","id":1}"#;
    let mut refused = async |count: usize| {
        let batch = vec![call; count].join(",");
        client.wire.write_all(format!("[{batch}]\n").as_bytes()).await.unwrap();
        assert!(got(&mut server.wire).await.starts_with('['));
        tokio::time::sleep(20 * SECOND).await;
        got(&mut client.wire).await
    };
    assert_eq!(refused(32).await.matches("-32052").count(), 32);
    // Or -32052, were it not for `timeouts.stall`.
    let one = refused(33).await;
    assert!(one.starts_with('{') && one.contains("-32055") && one.contains("\"id\":null"), "{one}");
}
