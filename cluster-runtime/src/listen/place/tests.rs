//! The promises of placement, for any loads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::Readiness::{Busy, Coming, Ready, Vacant};
use super::*;

fn states() -> impl Strategy<Value = Readiness> {
    prop_oneof![6 => Just(Ready), 1 => Just(Busy), 1 => Just(Coming), 1 => Just(Vacant)]
}

/// Up to as many slots as a large machine has, with loads near each other, where the decisions are close.
fn slots() -> impl Strategy<Value = Vec<Load>> {
    let load = (states(), 0_u32..70, 0_u64..1000);
    proptest::collection::vec(load, 1..20).prop_map(|loads| {
        let numbered = loads.into_iter().enumerate();
        numbered.map(|(slot, (state, open, accepted))| Load { slot, state, open, accepted }).collect()
    })
}

fn policies() -> impl Strategy<Value = Dispatch> {
    prop_oneof![
        Just(Dispatch::Balanced),
        Just(Dispatch::Kernel),
        Just(Dispatch::RoundRobin),
        Just(Dispatch::Sticky(Sticky::address())),
        any::<usize>().prop_map(|slot| Dispatch::from(Always(slot % 25))),
    ]
}

fn clients() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<(IpAddr, u16)>().prop_map(|client| Address::Tcp(SocketAddr::from(client))),
        Just(Address::Unnamed)
    ]
}

/// The worker that has accepted the connection, so one that runs; or the primary.
fn accepting_slot(slots: &[Load], number: Option<prop::sample::Index>) -> Option<usize> {
    let running: Vec<_> =
        slots.iter().filter(|load| matches!(load.state, Ready | Busy)).map(|load| load.slot).collect();
    number.filter(|_| !running.is_empty()).map(|number| *number.get(&running))
}

/// A policy of somebody who does not look.
#[derive(Debug)]
struct Always(usize);

impl Placement for Always {
    fn place(&self, _client: &Address, _loads: &Loads<'_>) -> Option<usize> {
        Some(self.0)
    }
}

fn choose(dispatch: &Dispatch, here: Option<usize>, slots: &[Load], client: &Address) -> Option<usize> {
    Loads::new(here, slots).place(&*dispatch.placement(), client)
}

proptest! {
    #[test]
    fn no_policy_names_a_slot_where_nobody_is(
        dispatch in policies(), slots in slots(), number in any::<Option<prop::sample::Index>>(), client in clients(),
    ) {
        let here = accepting_slot(&slots, number);
        match choose(&dispatch, here, &slots, &client) {
            Some(slot) => prop_assert_ne!(slots[slot].state, Vacant),
            None => prop_assert!(here.is_none() && slots.iter().all(|load| !matches!(load.state, Ready | Busy))),
        }
    }

    #[test]
    fn policies_that_look_at_loads_let_nobody_wait_while_a_slot_is_ready(
        dispatch in prop_oneof![Just(Dispatch::Balanced), Just(Dispatch::RoundRobin)],
        slots in slots(), client in clients(),
    ) {
        let chosen = choose(&dispatch, None, &slots, &client);
        let best = [Ready, Busy].into_iter().find(|state| slots.iter().any(|load| load.state == *state));
        prop_assert_eq!(chosen.map(|slot| slots[slot].state), best);
    }

    #[test]
    fn balanced_never_widens_the_spread_by_more_than_its_slack(
        slots in slots(), number in any::<Option<prop::sample::Index>>(), client in clients(),
    ) {
        let here = accepting_slot(&slots, number);
        let ready: Vec<_> = slots.iter().filter(|load| load.state == Ready).map(|load| load.open).collect();
        prop_assume!(!ready.is_empty());
        let least = *ready.iter().min().unwrap();
        let chosen = choose(&Dispatch::Balanced, here, &slots, &client).unwrap();
        prop_assert!(slots[chosen].open <= least + least / SLACK, "{:?} gets one more, the least is {least}", slots[chosen]);
    }

    /// As many as there are, from nothing: the fewest and the most differ by one.
    #[test]
    fn balanced_spreads_few_connections_evenly(
        count in 1_usize..16, arrivals in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let mut slots: Vec<_> = (0..count).map(|slot| Load { slot, state: Ready, open: 0, accepted: 0 }).collect();
        for here in &arrivals {
            let chosen = choose(&Dispatch::Balanced, Some(here.index(count)), &slots, &Address::Unnamed).unwrap();
            slots[chosen].open += 1;
        }
        let (least, most) = (slots.iter().map(|load| load.open).min().unwrap(), slots.iter().map(|load| load.open).max().unwrap());
        prop_assert!(most - least <= 1 + least / SLACK, "{least} to {most}");
    }

    #[test]
    fn round_robin_gives_every_ready_slot_one_before_any_gets_a_second(slots in slots()) {
        let placement = Dispatch::RoundRobin.placement();
        let ready: BTreeSet<_> = slots.iter().filter(|load| load.state == Ready).map(|load| load.slot).collect();
        let loads = Loads::new(None, &slots);
        for _ in 0..3 {
            let turn: BTreeSet<_> = (0..ready.len()).filter_map(|_| loads.place(&*placement, &Address::Unnamed)).collect();
            prop_assert_eq!(&turn, &ready);
        }
    }

    #[test]
    fn kernel_keeps_everything_where_it_was_accepted(
        slots in slots(), number in any::<prop::sample::Index>(), client in clients(),
    ) {
        let here = accepting_slot(&slots, Some(number));
        prop_assume!(here.is_some());
        prop_assert_eq!(choose(&Dispatch::Kernel, here, &slots, &client), here);
    }

    /// While a worker is busy, or replaced, its clients wait for its slot.
    #[test]
    fn a_sticky_client_stays_whatever_happens_to_loads_and_workers(
        ip in any::<IpAddr>(), ports in any::<(u16, u16)>(), slots in slots(), name in any::<Vec<u8>>(),
        changes in proptest::collection::vec((prop_oneof![Just(Ready), Just(Busy), Just(Coming)], any::<u32>()), 20),
        heres in any::<[Option<prop::sample::Index>; 2]>(),
    ) {
        let mut later = slots.clone();
        for (load, (state, open)) in later.iter_mut().zip(changes).filter(|(load, _)| load.state != Vacant) {
            load.state = state;
            load.open = open;
        }
        let [here, there] = heres;
        let (here, there) = (accepting_slot(&slots, here), accepting_slot(&later, there));
        let by_address = Dispatch::Sticky(Sticky::address());
        let client = |port| Address::Tcp(SocketAddr::new(ip, port));
        let place = |here, slots: &[Load], port| choose(&by_address, here, slots, &client(port));
        prop_assume!(slots.iter().any(|load| load.state != Vacant));
        prop_assert_eq!(place(here, &slots, ports.0), place(there, &later, ports.1));
        let by_name = |here, slots| Loads::new(here, slots).place_by_name(&name);
        prop_assert_eq!(by_name(here, &slots), by_name(there, &later));
    }

    /// A slot that empties moves its own clients only, and they come back with its next worker.
    #[test]
    fn a_slot_that_empties_moves_no_client_of_another(
        ip in any::<IpAddr>(), count in 2_usize..20, gone in any::<prop::sample::Index>(),
    ) {
        let mut slots: Vec<_> = (0..count).map(|slot| Load { slot, state: Ready, open: 0, accepted: 0 }).collect();
        let client = Address::Tcp(SocketAddr::new(ip, 1));
        let by_address = Dispatch::Sticky(Sticky::address());
        let before = choose(&by_address, None, &slots, &client).unwrap();
        let gone = gone.index(count);
        slots[gone].state = Vacant;
        let meanwhile = choose(&by_address, None, &slots, &client).unwrap();
        prop_assert_ne!(meanwhile, gone);
        prop_assert!(before == gone || meanwhile == before);
    }

    #[test]
    fn there_is_always_a_slot_that_gets_new_connections(
        dispatch in policies(), states in proptest::collection::vec(states(), 1..20),
    ) {
        let excluded = dispatch.excluded(&states);
        prop_assert!(excluded.len() < states.len());
        let is_any_ready = states.contains(&Ready);
        for (slot, state) in states.iter().enumerate() {
            prop_assert!(*state != Ready || !excluded.contains(&slot), "a ready slot is left out");
            prop_assert!(*state != Vacant || !is_any_ready || excluded.contains(&slot), "connections wait for nobody");
        }
    }
}

#[test]
fn connections_that_come_one_by_one_while_all_are_busy_are_spread_over_them() {
    let mut slots: Vec<_> = (0..3).map(|slot| Load { slot, state: Busy, open: 0, accepted: 0 }).collect();
    for _ in 0..9 {
        let slot = Loads::new(None, &slots).place(&Balanced, &Address::Unnamed).unwrap();
        slots[slot].accepted += 1;
    }
    assert!(slots.iter().all(|load| load.accepted == 3), "{slots:?}");
}

#[test]
fn least_loaded_prefers_who_has_the_connection_already_and_then_who_had_the_fewest() {
    let load = |slot, open, accepted| Load { slot, state: Ready, open, accepted };
    let slots = [load(0, 1, 5), load(1, 0, 9), load(2, 0, 7), load(3, 0, 8)];
    assert_eq!(Loads::new(Some(1), &slots).least_loaded(), Some(1));
    assert_eq!(Loads::new(Some(0), &slots).least_loaded(), Some(2));
    assert_eq!(Loads::new(None, &slots).least_loaded(), Some(2));
}

#[test]
fn sticky_clients_are_spread_over_all_slots() {
    let slots: Vec<_> = (0..8).map(|slot| Load { slot, state: Ready, open: 0, accepted: 0 }).collect();
    let mut counts = [0; 8];
    for number in 0..800_u32 {
        let client = Address::Tcp(SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + number).into(), 1));
        counts[choose(&Dispatch::Sticky(Sticky::address()), None, &slots, &client).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (60..150).contains(count)), "{counts:?}");
}
