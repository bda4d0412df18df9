//! What this library promises of its messages.

use std::borrow::Cow;

use super::figure::{AT_ONCE, Cores, Figure, Payload, Primary, Service, Traffic, Worker};
use super::peer::Peer;
use crate::results::{Bar, Limit, Measured};

pub(super) fn all() -> Vec<Bar<Figure>> {
    let mut bars = vec![
        bar("one-way, worker to primary, million messages a second", median(Figure::Rate(Traffic::Up)), at_least(25.0)),
        than("the same / Node, json", Figure::Rate(Traffic::Up), Peer::NodeJson, at_least(80.0)),
        than("the same / Node, advanced", Figure::Rate(Traffic::Up), Peer::NodeAdvanced, at_least(80.0)),
        than("the same / ipc-channel", Figure::Rate(Traffic::Up), Peer::IpcChannel, Limit::Above(1.0)),
        bar("CPU per request: `counter` / `hello`", added_by_counting(Peer::Cluster), at_most(1.15)),
        bar("the same of Node", added_by_counting(Peer::NodeJson), Limit::None),
        than("a call, one at a time / bare socket", Figure::RoundTrip(Cores::Any), Peer::Bare, at_most(1.25)),
        than("the same, on one core / bare socket", Figure::RoundTrip(Cores::One), Peer::Bare, at_most(1.25)),
        than("a call, one at a time / tarpc", Figure::RoundTrip(Cores::Any), Peer::Tarpc, Limit::Below(1.0)),
        than("the same, on one core / tarpc", Figure::RoundTrip(Cores::One), Peer::Tarpc, Limit::Below(1.0)),
        than("64 calls at once / tarpc", Figure::Rate(Traffic::Pipelined), Peer::Tarpc, Limit::Above(1.0)),
    ];
    for payload in Payload::ALL {
        for at_once in AT_ONCE {
            bars.extend(Cores::ALL.into_iter().flat_map(|cores| echo(payload, at_once, cores)));
        }
    }
    bars.extend([
        than("1 MiB messages, bytes a second / bare socket", Figure::Rate(Traffic::Bulk), Peer::Bare, at_least(0.6)),
        bar("an addition to a counter (ns)", median(Figure::Addition), at_most(5.0)),
        // A system call for each would take a hundred.
        bar("of it in the kernel (ns)", median(Figure::AdditionInKernel), Limit::Below(1.0)),
    ]);
    bars.extend(Primary::ALL.into_iter().flat_map(drain));
    bars
}

/// Against each of Node's two ways; and against the bare socket, which knows no payload.
fn echo(payload: Payload, at_once: usize, cores: Cores) -> Vec<Bar<Figure>> {
    let traffic = Traffic::Echo(payload, at_once, cores);
    let limit = match at_once {
        1 => 1.5,
        10 => 4.0,
        _ => 15.0,
    };
    let beside =
        |peer: Peer, limit| than(format!("echo, {traffic} / {}", peer.name()), Figure::Rate(traffic), peer, limit);
    let mut bars: Vec<_> = Peer::NODE.into_iter().map(|node| beside(node, at_least(limit))).collect();
    if payload == Payload::String {
        bars.push(beside(Peer::Bare, Limit::None));
    }
    bars
}

/// The order may come a little later to a worker that floods, but not by a multiple that anybody feels.
fn drain(primary: Primary) -> [Bar<Figure>; 2] {
    let told = |worker| (Figure::Told(worker, primary), Peer::Cluster.name());
    let (idle, flooding) = (told(Worker::Idle), told(Worker::Flooding));
    [
        bar(
            format!("the order to end, {primary}: flooding worker later than an idle one (ms)"),
            Measured::Difference(flooding, idle),
            at_most(1.0),
        ),
        bar("the same: flooding / idle", Measured::Ratio(flooding, idle), Limit::None),
    ]
}

fn added_by_counting(peer: Peer) -> Measured<Figure> {
    let of = |service| (Figure::RequestCpu(service), peer.name());
    Measured::Ratio(of(Service::Counter), of(Service::Hello))
}

fn than(name: impl Into<Cow<'static, str>>, figure: Figure, other: Peer, limit: Limit) -> Bar<Figure> {
    bar(name, Measured::Ratio((figure, Peer::Cluster.name()), (figure, other.name())), limit)
}

fn median(figure: Figure) -> Measured<Figure> {
    Measured::Median((figure, Peer::Cluster.name()))
}

fn bar(name: impl Into<Cow<'static, str>>, measured: Measured<Figure>, limit: Limit) -> Bar<Figure> {
    Bar { name: name.into(), measured, limit }
}

fn at_least(limit: f64) -> Limit {
    Limit::AtLeast(limit)
}

fn at_most(limit: f64) -> Limit {
    Limit::AtMost(limit)
}
