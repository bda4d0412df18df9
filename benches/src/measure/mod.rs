//! What is measured of a peer. Each measurement starts the peer anew.

mod balance;
mod queue;
mod serving;
mod tail;

use crate::options::Options;
use crate::peer::Peer;
use crate::results::{Figure, Samples};

/// Adds to the samples of a peer, if the peer can be measured so.
pub(crate) type Measurement = fn(&Peer, &Options, &mut Samples<Figure>);

/// In the order in which a round goes through them, with all peers each.
pub(crate) const ALL: [(&str, Measurement); 4] =
    [("serving", serving::measure), ("tail", tail::measure), ("balance", balance::measure), ("queue", queue::measure)];

/// Workers, or threads, of every peer where nothing else is said.
const CORES: usize = 2;
