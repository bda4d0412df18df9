//! Which socket of a `SO_REUSEPORT` group gets a newcomer, decided in the kernel by a small program that is made here.
//!
//! Left alone, the kernel spreads newcomers by a hash of its own, over every socket of the group, whether its slot has
//! a worker or not. A program says otherwise: it runs for every SYN and for every datagram, and what it returns is the
//! index of the socket. Two things are wanted of it:
//!
//! - *Leave sockets out.* What comes to a socket that nobody reads would wait there. Sockets are never closed for that:
//!   a close renumbers the group and loses what is queued.
//! - *Keep a client with its worker.* The choice is a pure function of the client's address, the same after a restart
//!   and the same [in user space](sticky_index).
//!
//! Both together: a client moves only while the socket that is its own is left out. Its hash has two independent parts,
//! remainder and quotient by the size of the group. The remainder names the socket of its own; only if that is left
//! out, the quotient chooses among the others. A hash taken modulo the number of sockets that are left would move
//! nearly everybody whenever one comes or goes.
//!
//! The language is classic BPF: it needs no privilege. A load from outside the packet would end a program with index 0,
//! but no packet that the kernel has taken for TCP or UDP is that short.

use std::collections::BTreeSet;
use std::iter;
use std::net::IpAddr;
use std::ops::Range;

use libc::sock_filter;

/// What the choice of a socket hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steering {
    /// On nothing: for TCP, where the first packet decides for the whole connection.
    Random,
    /// On the client's address and port: for UDP, where every datagram of a flow must find the same socket.
    ///
    /// The port is looked for behind the fixed IPv6 header. In a packet with extension headers other bytes are there,
    /// which are as good while they are the same throughout the flow.
    Flow,
    /// On the client's address alone.
    Client,
}

/// The program that chooses among `sockets` sockets and never gives anything to an index in `excluded`.
///
/// To exclude all of them excludes none: somebody must get what comes.
pub(crate) fn program(steering: Steering, sockets: usize, excluded: &BTreeSet<usize>) -> Vec<sock_filter> {
    let group = Group::new(sockets, excluded);
    match steering {
        Steering::Random => [vec![RANDOM], group.program_nth_live()].concat(),
        Steering::Flow => [program_hash(true), group.program_choose()].concat(),
        Steering::Client => [program_hash(false), group.program_choose()].concat(),
    }
}

/// The index that the program for [`Steering::Client`] gives for this client.
///
/// An IPv4 client of an IPv6 socket is the same client as at an IPv4 socket: on the wire it is.
pub(crate) fn sticky_index(client: IpAddr, sockets: usize, excluded: &BTreeSet<usize>) -> usize {
    Group::new(sockets, excluded).choose(hash(words(client))) as usize
}

/// The same for a client that is known by something else, whose hash this is.
pub(crate) fn hashed_index(hash: u32, sockets: usize, excluded: &BTreeSet<usize>) -> usize {
    Group::new(sockets, excluded).choose(hash) as usize
}

/// The sockets to choose among. Each choice comes twice, as a function and as the instructions that do the same.
struct Group {
    sockets: u32,
    live: u32,
    /// The excluded indices as ascending runs with gaps in between: so a program grows with their number only, five
    /// instructions for each at most.
    excluded: Vec<Range<u32>>,
}

impl Group {
    fn new(sockets: usize, excluded: &BTreeSet<usize>) -> Self {
        let sockets = u32::try_from(sockets).unwrap_or(u32::MAX).max(1);
        let runs = runs(excluded, sockets);
        let live = sockets - runs.iter().map(|run| run.end - run.start).sum::<u32>();
        match live {
            0 => Self { sockets, live: sockets, excluded: Vec::new() },
            _ => Self { sockets, live, excluded: runs },
        }
    }

    fn choose(&self, hash: u32) -> u32 {
        let own = hash % self.sockets;
        if self.excluded.iter().any(|run| run.contains(&own)) { self.nth_live(hash / self.sockets) } else { own }
    }

    fn nth_live(&self, number: u32) -> u32 {
        let skip = |index, run: &Range<u32>| if index >= run.start { index + (run.end - run.start) } else { index };
        self.excluded.iter().fold(number % self.live, skip)
    }

    /// From the hash in the accumulator to the end of the program.
    fn program_choose(&self) -> Vec<sock_filter> {
        let mut code = vec![store(), alu(libc::BPF_MOD, self.sockets)];
        for (nth, run) in self.excluded.iter().enumerate() {
            let rest = 3 * (self.excluded.len() - 1 - nth) + 1;
            code.extend([jump_if_at_least(run.start, 0, 2), jump_if_at_least(run.end, 1, 0), jump(rest)]);
        }
        code.push(RETURN);
        if !self.excluded.is_empty() {
            code.extend([recall(), alu(libc::BPF_DIV, self.sockets)]);
            code.extend(self.program_nth_live());
        }
        code
    }

    /// From any number in the accumulator to the end of the program.
    fn program_nth_live(&self) -> Vec<sock_filter> {
        let skip = |run: &Range<u32>| [jump_if_at_least(run.start, 0, 1), alu(libc::BPF_ADD, run.end - run.start)];
        let skips = self.excluded.iter().flat_map(skip);
        iter::once(alu(libc::BPF_MOD, self.live)).chain(skips).chain([RETURN]).collect()
    }
}

fn runs(indices: &BTreeSet<usize>, sockets: u32) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for index in indices.iter().filter_map(|index| u32::try_from(*index).ok()).take_while(|index| *index < sockets) {
        match runs.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

/// What is hashed of a client, in this order.
fn words(client: IpAddr) -> Vec<u32> {
    match client.to_canonical() {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => [96, 64, 32, 0].map(|shift| (address.to_bits() >> shift) as u32).to_vec(),
    }
}

fn hash(words: impl IntoIterator<Item = u32>) -> u32 {
    words.into_iter().fold(0, |hash, word| mix(hash ^ word))
}

/// Spreads every bit of `word` over all bits: the finaliser of MurmurHash3, known for that.
fn mix(word: u32) -> u32 {
    let rounds = ROUNDS.iter().fold(word, |hash, (shift, factor)| (hash ^ (hash >> shift)).wrapping_mul(*factor));
    rounds ^ (rounds >> LAST_SHIFT)
}

const ROUNDS: [(u32, u32); 2] = [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)];
const LAST_SHIFT: u32 = 16;

/// Leaves the [`hash`] of the client in the accumulator: of its port if wanted, then of its address.
///
/// The version is asked of the packet and not of the socket: an IPv6 socket may get IPv4 packets.
fn program_hash(with_port: bool) -> Vec<sock_filter> {
    let port = |load: Vec<sock_filter>| with_port.then_some(load);
    let v4 = program_fold(port(vec![header_length(), port_behind_header()]).into_iter().chain([vec![word_at(12)]]));
    let v6_address = [8, 12, 16, 20].map(|offset| vec![word_at(offset)]);
    let v6 = program_fold(port(vec![port_at(40)]).into_iter().chain(v6_address));

    let to_v6 = u8::try_from(v4.len() + 1).expect("the code for IPv4 is a few dozen instructions long");
    let is_v6 = [version_byte(), alu(libc::BPF_RSH, 4), jump_if_equal(6, to_v6, 0)];
    [&is_v6[..], &v4, &[jump(v6.len())], &v6].concat()
}

/// The hash of what the `loads` load. All but the first must leave the index register alone.
fn program_fold(loads: impl Iterator<Item = Vec<sock_filter>>) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for load in loads {
        if code.is_empty() {
            code.extend(load);
        } else {
            code.push(TO_INDEX);
            code.extend(load);
            code.push(XOR_INDEX);
        }
        code.extend(program_mix());
    }
    code
}

fn program_mix() -> impl Iterator<Item = sock_filter> {
    let xor_shift = |shift| [TO_INDEX, alu(libc::BPF_RSH, shift), XOR_INDEX];
    let round = move |(shift, factor)| xor_shift(shift).into_iter().chain([alu(libc::BPF_MUL, factor)]);
    ROUNDS.into_iter().flat_map(round).chain(xor_shift(LAST_SHIFT))
}

/// Where the network header is, for a load.
const HEADER: u32 = libc::SKF_NET_OFF.cast_unsigned();

const RANDOM: sock_filter =
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned());
const TO_INDEX: sock_filter = instruction(libc::BPF_MISC | libc::BPF_TAX, 0);
const XOR_INDEX: sock_filter = instruction(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0);
const RETURN: sock_filter = instruction(libc::BPF_RET | libc::BPF_A, 0);

const fn version_byte() -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, HEADER)
}

const fn word_at(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, HEADER + offset)
}

const fn port_at(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, HEADER + offset)
}

/// The length of the IPv4 header, which may carry options, into the index register.
const fn header_length() -> sock_filter {
    instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, HEADER)
}

const fn port_behind_header() -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, HEADER)
}

const fn store() -> sock_filter {
    instruction(libc::BPF_ST, 0)
}

const fn recall() -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_MEM, 0)
}

const fn alu(operation: u32, operand: u32) -> sock_filter {
    instruction(libc::BPF_ALU | operation | libc::BPF_K, operand)
}

const fn jump(distance: usize) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, distance as u32)
}

const fn jump_if_equal(value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { jt: then, jf: otherwise, ..instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value) }
}

const fn jump_if_at_least(value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { jt: then, jf: otherwise, ..instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, value) }
}

const fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::os::{attach_steering, detach_steering};

    /// As much of classic BPF as the programs use, over a packet that begins with its network header.
    fn interpret(program: &[sock_filter], packet: &[u8], random: u32) -> u32 {
        let (mut a, mut x, mut memory) = (0_u32, 0_u32, 0_u32);
        let load = |k: u32, len: usize| {
            let at = k.wrapping_sub(HEADER) as usize;
            packet[at..at + len].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
        };
        let mut next = 0;
        loop {
            let sock_filter { code, jt, jf, k } = program[next];
            next += 1;
            let branch = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                0x20 if k == RANDOM.k => a = random,
                0x20 => a = load(k, 4),
                0x28 => a = load(k, 2),
                0x30 => a = load(k, 1),
                0x48 => a = load(k.wrapping_add(x), 2),
                0xb1 => x = 4 * (load(k, 1) & 0xf),
                0x02 => memory = a,
                0x60 => a = memory,
                0x04 => a = a.wrapping_add(k),
                0x24 => a = a.wrapping_mul(k),
                0x34 => a /= k,
                0x74 => a >>= k,
                0x94 => a %= k,
                0xac => a ^= x,
                0x07 => x = a,
                0x05 => next += k as usize,
                0x15 => next += branch(a == k),
                0x35 => next += branch(a >= k),
                0x16 => return a,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    /// The headers of a packet from `client`, as far as a program looks; an IPv4 header with `options` words of
    /// options.
    fn packet(client: SocketAddr, options: u8) -> Vec<u8> {
        let mut bytes = match client.ip() {
            IpAddr::V4(address) => {
                let mut header = vec![0; 20 + 4 * usize::from(options)];
                header[0] = 0x45 + options;
                header[12..16].copy_from_slice(&address.octets());
                header
            }
            IpAddr::V6(address) => {
                let mut header = vec![0; 40];
                // A traffic class and a flow label share the first word with the version.
                header[..4].copy_from_slice(&[0x6a, 0xbc, 0xde, 0xf0]);
                header[8..24].copy_from_slice(&address.octets());
                header
            }
        };
        bytes.extend(client.port().to_be_bytes());
        bytes.extend([0; 6]);
        bytes
    }

    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, bound: usize) -> usize {
            (self.next() % bound as u64) as usize
        }

        fn client(&mut self) -> SocketAddr {
            let bits = u128::from(self.next()) << 64 | u128::from(self.next());
            let ip = match self.below(3) {
                0 => IpAddr::V6(bits.into()),
                1 => IpAddr::V6((bits & 0xffff).into()),
                _ => IpAddr::V4((bits as u32).into()),
            };
            SocketAddr::new(ip, self.next() as u16)
        }

        /// A set that is never all of them, from empty to all but one.
        fn excluded(&mut self, sockets: usize) -> BTreeSet<usize> {
            let density = self.below(101);
            let spared = self.below(sockets);
            (0..sockets).filter(|index| *index != spared && self.below(100) < density).collect()
        }
    }

    fn flow_index(client: SocketAddr, sockets: usize, excluded: &BTreeSet<usize>) -> usize {
        let input = iter::once(u32::from(client.port())).chain(words(client.ip()));
        Group::new(sockets, excluded).choose(hash(input)) as usize
    }

    #[test]
    fn the_kernels_choice_can_be_foretold_in_user_space() {
        let mut numbers = Numbers(0x1234_5678_9abc_def1);
        for _ in 0..20_000 {
            let sockets = 1 + numbers.below(40);
            let excluded = numbers.excluded(sockets);
            let client = numbers.client();
            let packet = packet(client, numbers.below(11) as u8);
            let run = |steering| interpret(&program(steering, sockets, &excluded), &packet, 0) as usize;

            let index = run(Steering::Client);
            assert_eq!(index, sticky_index(client.ip(), sockets, &excluded), "{client} {sockets} {excluded:?}");
            assert!(index < sockets && !excluded.contains(&index));
            let index = run(Steering::Flow);
            assert_eq!(index, flow_index(client, sockets, &excluded), "{client} {sockets} {excluded:?}");
            assert!(index < sockets && !excluded.contains(&index));
        }
    }

    #[test]
    fn a_random_choice_gives_every_live_socket_the_same_share_and_the_excluded_nothing() {
        let mut numbers = Numbers(7);
        for _ in 0..200 {
            let sockets = 1 + numbers.below(40);
            let excluded = numbers.excluded(sockets);
            let live = sockets - excluded.len();
            let program = program(Steering::Random, sockets, &excluded);
            let mut counts = vec![0; sockets];
            (0..3 * live as u32).for_each(|random| counts[interpret(&program, &[], random) as usize] += 1);
            for (index, count) in counts.into_iter().enumerate() {
                assert_eq!(count, if excluded.contains(&index) { 0 } else { 3 }, "{index} of {sockets}, {excluded:?}");
            }
        }
    }

    #[test]
    fn a_client_whose_socket_is_live_never_moves() {
        let mut numbers = Numbers(99);
        for _ in 0..20_000 {
            let sockets = 1 + numbers.below(16);
            let (excluded, client) = (numbers.excluded(sockets), numbers.client());
            let own = sticky_index(client.ip(), sockets, &BTreeSet::new());
            let now = sticky_index(client.ip(), sockets, &excluded);
            assert_eq!(now == own, !excluded.contains(&own));
            let own = flow_index(client, sockets, &BTreeSet::new());
            assert_eq!(flow_index(client, sockets, &excluded) == own, !excluded.contains(&own));
        }
    }

    #[test]
    fn an_ipv4_client_is_the_same_one_behind_a_mapped_address() {
        let v4 = Ipv4Addr::new(203, 0, 113, 9);
        for sockets in 1..50 {
            let index = |ip| sticky_index(ip, sockets, &BTreeSet::new());
            assert_eq!(index(v4.into()), index(v4.to_ipv6_mapped().into()));
        }
    }

    #[test]
    fn excluding_all_excludes_none() {
        let all = BTreeSet::from([0, 1, 2]);
        let program = program(Steering::Random, 3, &all);
        assert_eq!([0, 1, 2].map(|random| interpret(&program, &[], random)), [0, 1, 2]);
        let client = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(sticky_index(client, 3, &all), sticky_index(client, 3, &BTreeSet::new()));
    }

    #[test]
    fn indices_beyond_the_group_are_no_part_of_it() {
        let beyond = BTreeSet::from([2, 3, usize::MAX]);
        assert!((0..=255).all(|last| sticky_index([10, 0, 0, last].into(), 2, &beyond) < 2));
    }

    #[test]
    fn neighbouring_clients_spread_evenly_and_so_do_those_of_an_excluded_socket() {
        let v4 = |low: u32| IpAddr::V4((0x0a00_0000 + low).into());
        let v6 = |low: u32| IpAddr::V6((0x2001_0db8_0001_0002_u128 << 64 | u128::from(low)).into());
        for sockets in 2..=8 {
            let none = BTreeSet::new();
            assert_even(sockets, (0..1 << 16).map(|low| sticky_index(v4(low), sockets, &none)));
            assert_even(sockets, (0..1 << 16).map(|low| sticky_index(v6(low), sockets, &none)));
            let ports = |port: u32| flow_index(SocketAddr::new(v4(1), port as u16), sockets, &none);
            assert_even(sockets, (0..1 << 16).map(ports));
            for out in 0..sockets {
                let one = BTreeSet::from([out]);
                let moved = (0..1 << 16).map(v4).filter(|client| sticky_index(*client, sockets, &none) == out);
                // Counted without the gap.
                let close_up = |index| if index > out { index - 1 } else { index };
                assert_even(sockets - 1, moved.map(|client| close_up(sticky_index(client, sockets, &one))));
            }
        }
    }

    /// Chi-square: random numbers of 8 kinds exceed 40 once in a million times.
    fn assert_even(kinds: usize, indices: impl Iterator<Item = usize>) {
        let mut counts = vec![0_u32; kinds];
        indices.for_each(|index| counts[index] += 1);
        let expected = f64::from(counts.iter().sum::<u32>()) / kinds as f64;
        let chi: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        assert!(chi < 40.0, "{chi} for {counts:?}");
    }

    #[test]
    fn no_program_is_too_long_for_the_kernel() {
        let sockets = 1024;
        let worst: BTreeSet<_> = (0..sockets).step_by(2).collect();
        let all_but_one = (1..sockets).collect();
        for steering in [Steering::Random, Steering::Flow, Steering::Client] {
            assert!(program(steering, sockets, &worst).len() < 4096);
            assert!(program(steering, sockets, &all_but_one).len() < 150);
        }
        let group = tcp_group("127.0.0.1:0", 2);
        attach_steering(group[0].as_fd(), &program(Steering::Flow, sockets, &worst)).unwrap();
    }

    // From here on with the kernel's own sockets.

    const WITHOUT: [&[usize]; 5] = [&[], &[0], &[1, 3], &[0, 1, 2], &[]];

    #[test]
    fn the_kernel_gives_each_tcp_client_to_its_own_socket_and_no_other() {
        let group = tcp_group("127.0.0.1:0", 4);
        for excluded in WITHOUT.map(|indices| BTreeSet::from_iter(indices.iter().copied())) {
            attach_steering(group[0].as_fd(), &program(Steering::Client, 4, &excluded)).unwrap();
            for low in 2..34 {
                let client = IpAddr::from([127, 0, 0, low]);
                assert_eq!(tcp_choice(&group, client, [127, 0, 0, 1].into()), sticky_index(client, 4, &excluded));
            }
        }
    }

    #[test]
    fn the_kernel_leaves_excluded_tcp_sockets_alone_until_it_is_told_otherwise() {
        let group = tcp_group("127.0.0.1:0", 4);
        let localhost = IpAddr::from([127, 0, 0, 1]);
        let seen = || (0..64).map(|_| tcp_choice(&group, localhost, localhost)).collect::<BTreeSet<_>>();
        attach_steering(group[0].as_fd(), &program(Steering::Random, 4, &BTreeSet::from([0, 2]))).unwrap();
        assert_eq!(seen(), BTreeSet::from([1, 3]));
        // Any socket of the group speaks for the group.
        detach_steering(group[3].as_fd()).unwrap();
        assert_eq!(seen(), BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(detach_steering(group[0].as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn the_kernel_tells_ipv6_from_ipv4_at_a_dual_stack_socket() {
        let Some(group) = dual_stack(Type::STREAM) else { return };
        for excluded in WITHOUT.map(|indices| BTreeSet::from_iter(indices.iter().copied())) {
            attach_steering(group[0].as_fd(), &program(Steering::Client, 4, &excluded)).unwrap();
            let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
            assert_eq!(tcp_choice(&group, v6, v6), sticky_index(v6, 4, &excluded));
            for low in 2..34 {
                let client = IpAddr::from([127, 0, 0, low]);
                assert_eq!(tcp_choice(&group, client, [127, 0, 0, 1].into()), sticky_index(client, 4, &excluded));
            }
        }
    }

    #[test]
    fn the_kernel_keeps_every_datagram_of_a_flow_with_one_socket() {
        let Some(group) = dual_stack(Type::DGRAM) else { return };
        let port = group[0].local_addr().unwrap().as_socket().unwrap().port();
        let clients = ["127.0.0.1:0", "127.0.0.7:0", "[::1]:0"].map(|any| (0..16).map(move |_| any)).into_iter();
        let clients: Vec<_> = clients.flatten().map(|any| UdpSocket::bind(any).unwrap()).collect();
        for excluded in WITHOUT.map(|indices| BTreeSet::from_iter(indices.iter().copied())) {
            attach_steering(group[0].as_fd(), &program(Steering::Flow, 4, &excluded)).unwrap();
            for client in &clients {
                let from = client.local_addr().unwrap();
                let to: IpAddr = if from.is_ipv4() { [127, 0, 0, 1].into() } else { Ipv6Addr::LOCALHOST.into() };
                for _ in 0..2 {
                    client.send_to(b"here", (to, port)).unwrap();
                    assert_eq!(udp_choice(&group), flow_index(from, 4, &excluded), "{from} {excluded:?}");
                }
            }
        }
    }

    fn tcp_choice(group: &[Socket], client: IpAddr, server: IpAddr) -> usize {
        let port = group[0].local_addr().unwrap().as_socket().unwrap().port();
        let connection = Socket::new(Domain::for_address((client, 0).into()), Type::STREAM, None).unwrap();
        connection.bind(&SocketAddr::new(client, 0).into()).unwrap();
        connection.connect(&SocketAddr::new(server, port).into()).unwrap();
        let chosen = only_readable(group);
        group[chosen].accept().unwrap();
        chosen
    }

    fn udp_choice(group: &[Socket]) -> usize {
        let chosen = only_readable(group);
        UdpSocket::from(group[chosen].try_clone().unwrap()).recv(&mut [0; 8]).unwrap();
        chosen
    }

    fn only_readable(group: &[Socket]) -> usize {
        let mut asked: Vec<_> = group.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        assert_eq!(poll(&mut asked, PollTimeout::from(10_000_u16)), Ok(1), "one socket got it, within 10 s");
        asked.iter().position(|asked| asked.any() == Some(true)).unwrap()
    }

    fn tcp_group(address: &str, sockets: usize) -> Vec<Socket> {
        group(address.parse().unwrap(), Type::STREAM, sockets).unwrap()
    }

    /// Nothing on a machine without IPv6.
    fn dual_stack(kind: Type) -> Option<Vec<Socket>> {
        let any = SocketAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
        std::net::TcpListener::bind("[::1]:0").ok()?;
        group(any, kind, 4).ok()
    }

    fn group(address: SocketAddr, kind: Type, sockets: usize) -> io::Result<Vec<Socket>> {
        let mut address = address;
        let mut group = Vec::new();
        for _ in 0..sockets {
            let socket = Socket::new(Domain::for_address(address), kind, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            if kind == Type::STREAM {
                socket.listen(64)?;
            }
            address = socket.local_addr()?.as_socket().unwrap();
            group.push(socket);
        }
        Ok(group)
    }
}
