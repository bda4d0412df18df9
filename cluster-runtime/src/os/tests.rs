use std::os::fd::AsFd as _;

use super::*;

#[test]
fn state_is_read_as_it_was_written_and_nobody_can_change_it() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    let fd = create_state(&bytes).unwrap();
    let mut file = File::from(fd.try_clone().unwrap());
    assert!(file.write_all(b"more").is_err());
    assert!(file.set_len(1).is_err());
    assert!(fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)).is_err());
    assert_eq!(read_state(&fd).unwrap(), bytes);
    assert_eq!(read_state(&create_state(&[]).unwrap()).unwrap(), b"");
}

/// By the call for it, and on kernels that do not have it.
#[test]
fn a_child_has_no_descriptor_that_is_not_its_own() {
    let others: [fn() -> Result<(), Errno>; 2] = [close_others_on_exec, close_listed_on_exec];
    for close in others {
        let [open, kept] = [(); 2].map(|()| create_state(b"").unwrap());
        keep_on_exec(open.as_fd()).unwrap();
        // More than are read at a time.
        let many: Vec<_> = (0..200).map(|_| open.try_clone().unwrap()).collect();
        many.iter().for_each(|fd| keep_on_exec(fd.as_fd()).unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", "ls /proc/$$/fd"]);
        // SAFETY: it makes system calls only.
        unsafe { command.pre_exec(move || Ok(close()?)) };
        prepare_child(&mut command, vec![kept.as_raw_fd()], SigSet::empty());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut numbers: Vec<i32> =
            String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, kept.as_raw_fd()]);
    }
}

#[test]
fn a_name_of_a_descriptor_is_read_as_a_number() {
    for (name, number) in [
        (&b"0\0"[..], Some(0)),
        (b"271\0junk", Some(271)),
        (b"2147483647\0", Some(i32::MAX)),
        (b"2147483648\0", None),
        (b".\0", None),
        (b"\0", None),
        (b"", None),
    ] {
        assert_eq!(number_of(name), number);
    }
}

#[test]
fn what_is_no_state_is_refused() {
    let unsealed = memfd_create(c"plain", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    assert!(read_state(&unsealed).is_err());
    let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(read_state(&end.into()).is_err());
    let huge = File::from(memfd_create(c"huge", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    huge.set_len(MOST_STATE as u64 + 1).unwrap();
    fcntl(&huge, FcntlArg::F_ADD_SEALS(STATE_SEALS)).unwrap();
    assert_eq!(read_state(&huge.into()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn what_is_kept_on_exec_is_closed_on_exec_again_once_it_is_adopted() {
    let is_closed = |fd: BorrowedFd<'_>| {
        FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
    };
    let fd = create_state(b"").unwrap();
    assert!(is_closed(fd.as_fd()));
    keep_on_exec(fd.as_fd()).unwrap();
    assert!(!is_closed(fd.as_fd()));
    let fd = adopt_inherited(std::os::fd::IntoRawFd::into_raw_fd(fd)).unwrap();
    assert!(is_closed(fd.as_fd()));
}

#[test]
fn random_bytes_differ_and_fill_their_place() {
    let (mut one, mut other) = ([0; 1000], [0; 1000]);
    random(&mut one).unwrap();
    random(&mut other).unwrap();
    assert!(one != other && one[968..] != [0; 32] && other[968..] != [0; 32]);
}
