//! Signatures: ed25519 over the manifest, which holds the hash of every other entry.

use super::format::{SIGNATURE, bad};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use torsh_ir::{Error, Result};

/// What a key signs is marked as ours, so that a signature of anything else is none of a package.
const DOMAIN: &[u8] = b"torsh package manifest\0";
const ALGORITHM: &str = "ed25519";

/// A secret key.
pub struct SecretKey(SigningKey);

/// A public key: 32 bytes.
pub type PublicKey = [u8; 32];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    algorithm: String,
    key: String,
    signature: String,
}

impl SecretKey {
    /// The key of a seed.
    pub fn from_seed(seed: &[u8; 32]) -> SecretKey {
        SecretKey(SigningKey::from_bytes(seed))
    }

    /// The key that verifies its signatures.
    pub fn public(&self) -> PublicKey {
        self.0.verifying_key().to_bytes()
    }

    /// The text of the entry that signs a manifest.
    pub(super) fn sign(&self, manifest: &[u8]) -> Result<Vec<u8>> {
        let signature = self.0.sign(&message(manifest));
        let signed = Signed {
            algorithm: ALGORITHM.to_string(),
            key: hex(&self.public()),
            signature: hex(&signature.to_bytes()),
        };
        serde_json::to_vec(&signed).map_err(|e| Error::internal(format!("a signature is no JSON: {e}")))
    }
}

fn message(manifest: &[u8]) -> Vec<u8> {
    [DOMAIN, manifest].concat()
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of so many hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let nibble = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

fn has_upper(signed: &Signed) -> bool {
    [&signed.key, &signed.signature].into_iter().any(|digits| digits.bytes().any(|b| b.is_ascii_uppercase()))
}

/// The key whose signature of this manifest `text` holds; an error if it does not verify.
pub(super) fn verify(text: &[u8], manifest: &[u8]) -> Result<PublicKey> {
    let signed: Signed = serde_json::from_slice(text).map_err(|e| bad(SIGNATURE, format!("not a signature: {e}")))?;
    // Nothing else covers these bytes: they have one form.
    if serde_json::to_vec(&signed).ok().as_deref() != Some(text) || has_upper(&signed) {
        return Err(bad(
            SIGNATURE,
            "it is not written as the exporter writes it: no spaces, fields in order, lower case",
        ));
    }
    if signed.algorithm != ALGORITHM {
        return Err(bad(SIGNATURE, format!("the algorithm is {:.40?}, not {ALGORITHM:?}", signed.algorithm)));
    }
    let (Some(key), Some(signature)) = (unhex::<32>(&signed.key), unhex::<64>(&signed.signature)) else {
        return Err(bad(SIGNATURE, "key and signature must be 64 and 128 hexadecimal digits"));
    };
    let verifying = VerifyingKey::from_bytes(&key).map_err(|_| bad(SIGNATURE, "the key is no ed25519 key"))?;
    let verified = verifying.verify_strict(&message(manifest), &Signature::from_bytes(&signature));
    verified.map_err(|_| bad(SIGNATURE, "the signature does not verify: the manifest is not what was signed"))?;
    Ok(key)
}
