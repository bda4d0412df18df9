//! What it takes a privilege to bind, and who may still have it bound: workers that have given up their user ask a primary that is root.
//!
//! The main function of a program that starts is as trustworthy as the primary, which runs the same one. Once it serves, it may be in
//! other hands. So what workers ask for before the first of them is ready they get, and later only what the configuration names.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::{Endpoint, Port, Transport};
use crate::aside::Aside;

/// The ports and paths that the configuration names.
#[derive(Debug, Default)]
pub(crate) struct NamedPorts(Vec<Endpoint>);

impl NamedPorts {
    /// Finds out what these texts name, as [`listen`](crate::listen()) does.
    ///
    /// # Errors
    /// What `listen` says of those that name nothing.
    pub(crate) fn find(texts: &[String]) -> io::Result<Self> {
        static NAMES: Aside = Aside::new();
        let mut named = Self::default();
        for text in texts {
            let port = Port::at(text);
            let resolve = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                runtime.block_on(port.place.resolve(Transport::Stream))
            };
            named.0.extend(NAMES.run(Path::new(text), resolve)?);
        }
        Ok(named)
    }

    fn has(&self, endpoint: &Endpoint) -> bool {
        self.0.iter().any(|named| match (named, endpoint) {
            // By the address alone: a text does not say which of the two it means.
            (Endpoint::Tcp(named), Endpoint::Tcp(asked) | Endpoint::Udp(asked)) => named == asked,
            (named, asked) => named == asked,
        })
    }
}

/// Whether this may still be bound for workers that run as `name`.
///
/// # Errors
/// `PermissionDenied`, with the remedy.
pub(crate) fn check(endpoint: &Endpoint, named: &NamedPorts, name: &str) -> io::Result<()> {
    let what = match takes_privilege(endpoint, lowest_free_port()) {
        Some(what) if !named.has(endpoint) => what,
        _ => return Ok(()),
    };
    let text = format!(
        "{what} is bound no more for workers that run as {name}, since one has been ready; name it in Setup::ports, or listen there \
         first ({endpoint})"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// What it is, if not everybody may bind it. Ports below `lowest` take a privilege.
fn takes_privilege(endpoint: &Endpoint, lowest: u16) -> Option<&'static str> {
    let is_low = |address: &SocketAddr| (1..lowest).contains(&address.port());
    match endpoint {
        Endpoint::Tcp(address) | Endpoint::Udp(address) if is_low(address) => Some("a privileged port"),
        Endpoint::Unix(_) => Some("a Unix socket with a path"),
        // Of an abstract name nobody is the owner, and an inherited socket is bound.
        Endpoint::Tcp(_) | Endpoint::Udp(_) | Endpoint::Abstract(_) | Endpoint::Inherited { .. } => None,
    }
}

/// In this network namespace.
fn lowest_free_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::Inherited;

    fn tcp(address: &str) -> Endpoint {
        Endpoint::Tcp(address.parse().unwrap())
    }

    fn udp(address: &str) -> Endpoint {
        Endpoint::Udp(address.parse().unwrap())
    }

    #[test]
    fn low_ports_and_paths_take_a_privilege_and_nothing_else_does() {
        let inherited = Endpoint::Inherited { by: Inherited::Numbered(3), transport: Transport::Stream };
        for (endpoint, is_privileged) in [
            (tcp("127.0.0.1:1"), true),
            (tcp("[::]:1023"), true),
            (udp("0.0.0.0:53"), true),
            (tcp("127.0.0.1:0"), false),
            (tcp("127.0.0.1:1024"), false),
            (udp("[::1]:65535"), false),
            (Endpoint::Unix("/tmp/a".into()), true),
            (Endpoint::Abstract(b"a".into()), false),
            (inherited, false),
        ] {
            assert_eq!(takes_privilege(&endpoint, 1024).is_some(), is_privileged, "{endpoint}");
        }
        assert_eq!(takes_privilege(&tcp("127.0.0.1:80"), 80), None);
        assert_eq!(takes_privilege(&tcp("127.0.0.1:80"), 0), None);
        assert!(takes_privilege(&tcp("127.0.0.1:79"), 80).is_some());
    }

    #[test]
    fn what_is_named_may_be_had_and_its_neighbours_may_not() {
        let texts = ["127.0.0.1:22", "localhost:23", "unix:/run/a.sock", "unix:@name", "fd:3"].map(String::from);
        let named = NamedPorts::find(&texts).unwrap();
        let may = |endpoint| check(&endpoint, &named, "user nobody").is_ok();
        for endpoint in [tcp("127.0.0.1:22"), udp("127.0.0.1:22"), tcp("127.0.0.1:23")] {
            assert!(may(endpoint.clone()), "{endpoint}");
        }
        assert!(may(Endpoint::Unix("/run/a.sock".into())));
        for endpoint in [tcp("0.0.0.0:22"), tcp("127.0.0.2:22"), tcp("127.0.0.1:21"), udp("127.0.0.1:53")] {
            assert!(!may(endpoint.clone()) || lowest_free_port() <= 53, "{endpoint}");
        }
        assert!(!may(Endpoint::Unix("/run/b.sock".into())));
        assert!(!may(Endpoint::Unix("/run/a.sock/../b.sock".into())));
    }

    #[test]
    fn a_refusal_names_the_remedy_and_fits_into_an_answer() {
        let path = Endpoint::Unix(format!("/{}", "p".repeat(400)).into());
        let error = check(&path, &NamedPorts::default(), "user www-data").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let told = crate::listen::Refusal::of(&error).into_io();
        assert_eq!(told.kind(), io::ErrorKind::PermissionDenied);
        assert!(told.to_string().contains("name it in Setup::ports, or listen there first (unix:/pp"), "{told}");
    }

    #[test]
    fn what_names_no_place_is_refused_as_listen_does() {
        for text in ["nonsense", "unix:", "127.0.0.1"] {
            let error = NamedPorts::find(&[text.to_owned()]).unwrap_err();
            assert!(error.to_string().contains("cannot listen on"), "{error}");
        }
    }
}
