//! The files of a certificate and its key: what is wrong with them is said with the remedy.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use nix::unistd::geteuid;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

/// Beyond all chains; a device that never ends must not fill the memory.
const MOST_BYTES: u64 = 1 << 20;

/// A server of this certificate chain and key.
pub(super) fn config(provider: CryptoProvider, certificate: &Path, key: &Path) -> io::Result<ServerConfig> {
    let chain = certificates(certificate)?;
    let private_key = private_key(key)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    builder.with_no_client_auth().with_single_cert(chain, private_key).map_err(|error| {
        let (certificate, key) = (certificate.display(), key.display());
        invalid(match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                "the private key in {key} does not belong to the first certificate in {certificate}; put the server's own \
                 certificate first, and the key that it was made with beside it"
            ),
            error => format!("{certificate} and {key} make no TLS server: {error}"),
        })
    })
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = read("certificate", path)?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let path = path.display();
    match chain {
        Ok(chain) if chain.is_empty() => Err(invalid(format!(
            "there is no certificate in {path}; it takes PEM (-----BEGIN CERTIFICATE-----), the server's own certificate first. \
             `openssl x509 -inform der -in {path}` prints one that is DER as PEM"
        ))),
        Ok(chain) => Ok(chain),
        Err(error) => Err(invalid(format!("the certificate in {path} is no sound PEM: {}", fault(&error)))),
    }
}

fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    let bytes = read("private key", path)?;
    let is_encrypted = bytes.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let path = path.display();
        invalid(match error {
            PemError::NoItemsFound if is_encrypted => format!(
                "the private key in {path} is encrypted, and nobody is there to type the password; take it off with \
                 `openssl pkey -in {path} -out …`, and let only the server's user read the new file"
            ),
            PemError::NoItemsFound => format!(
                "there is no private key in {path}; it takes PEM (-----BEGIN PRIVATE KEY-----). `openssl pkey -in {path}` prints \
                 one that is DER as PEM"
            ),
            error => format!("the private key in {path} is no sound PEM: {}", fault(&error)),
        })
    })
}

const ENCRYPTED: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";

fn read(what: &str, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let done = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    match done {
        Ok(_) => Ok(bytes),
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => format!(
                    "; each worker reads it, as user {}, who must be allowed to read it and to enter the directories above it",
                    geteuid()
                ),
                io::ErrorKind::NotFound if path.is_relative() => {
                    let here = std::env::current_dir().unwrap_or_default();
                    format!("; a path that is relative begins in the worker's directory, {}", here.display())
                }
                _ => String::new(),
            };
            let text = format!("cannot read the {what} {}: {error}{remedy}", path.display());
            Err(io::Error::new(error.kind(), text))
        }
    }
}

/// What is wrong, without a byte of what is in the file.
fn fault(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "the line that ends it is missing, so it may be cut short",
        PemError::IllegalSectionStart { .. } => "a line that begins it is misspelt",
        PemError::Base64Decode(_) => "what is between its first and last line is no base64",
        _ => "it cannot be read",
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use base64::prelude::{BASE64_STANDARD, Engine as _};

    use super::*;

    /// A certificate and its key.
    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        (pem("CERTIFICATE", made.cert.der()), pem("PRIVATE KEY", &made.signing_key.serialize_der()))
    }

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cluster-pem-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn error(certificate: &Path, key: &Path) -> String {
        config(tokio_rustls::rustls::crypto::ring::default_provider(), certificate, key).unwrap_err().to_string()
    }

    #[test]
    fn a_chain_and_its_key_make_a_server_from_two_files_or_one() {
        let place = Place::new("good");
        let provider = tokio_rustls::rustls::crypto::ring::default_provider;
        let (chain, secret) = made();
        config(provider(), &place.file("cert.pem", &chain), &place.file("key.pem", &secret)).unwrap();
        let both = place.file("both.pem", &format!("{secret}{chain}"));
        config(provider(), &both, &both).unwrap();
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name_and_the_remedy_and_no_byte_of_a_key() {
        let place = Place::new("wrong");
        let (chain, secret) = made();
        let (certificate, key) = (place.file("cert.pem", &chain), place.file("key.pem", &secret));
        let other = place.file("other.pem", &made().1);
        let encrypted = place.file("encrypted.pem", &secret.replace(" PRIVATE KEY", " ENCRYPTED PRIVATE KEY"));
        let cut = place.file("cut.pem", &secret[..secret.len() / 2]);
        let noise = place.file("noise.pem", &secret.replace('M', "!"));
        let cases = [
            (error(&place.0.join("none.pem"), &key), "cannot read the certificate", "none.pem: No such file"),
            (error(&certificate, &place.0.join("none.pem")), "cannot read the private key", "none.pem: No such file"),
            (error(Path::new("none.pem"), &key), "the worker's directory, ", "none.pem: "),
            (error(&certificate, &place.0), "cannot read the private key", "directory"),
            (error(&key, &key), "there is no certificate in", "key.pem; it takes PEM"),
            (error(&certificate, &certificate), "there is no private key in", "cert.pem; it takes PEM"),
            (error(&certificate, &encrypted), "encrypted.pem is encrypted", "openssl pkey"),
            (error(&certificate, &cut), "cut.pem is no sound PEM", "cut short"),
            (error(&certificate, &noise), "noise.pem is no sound PEM", "base64"),
            (error(&certificate, &other), "other.pem does not belong to", "cert.pem"),
        ];
        for (text, what, more) in cases {
            assert!(text.contains(what) && text.contains(more), "{text}");
            assert!(!text.contains(&secret.lines().nth(1).unwrap()[8..16]), "{text}");
        }
    }
}
