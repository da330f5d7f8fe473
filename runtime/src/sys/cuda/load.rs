//! Opens shared libraries at run time and resolves every function of a table at once.
//!
//! `cudarc` would load lazily, and panic where a library or a symbol is missing; it also reads the codes that
//! functions return as an enum, which a newer driver may step outside of. So tables of our own hold the functions,
//! with codes as plain numbers; that each signature is the one of `cudarc`'s bindings is checked by the compiler.

use libloading::Library;
use std::ffi::{OsStr, c_uint};

/// What a call of a library returned; 0 is success.
pub type Code = c_uint;

/// Opens a library by path or by name. Nothing that it needs is left to be found later.
pub fn open(name: &OsStr) -> Result<Library, String> {
    #[cfg(unix)]
    {
        use libloading::os::unix;
        // SAFETY: opening a library runs its initialisers. It is a part of CUDA that the system, a wheel, or the
        // user's own setting of a path names.
        let opened = unsafe { unix::Library::open(Some(name), unix::RTLD_NOW | unix::RTLD_LOCAL) };
        opened.map(Library::from).map_err(|e| reason(&e))
    }
    #[cfg(not(unix))]
    {
        // SAFETY: as above.
        unsafe { Library::new(name) }.map_err(|e| reason(&e))
    }
}

fn reason(e: &libloading::Error) -> String {
    // The loader's own words are in the source of some errors and in the text of others.
    std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string)
}

/// Whether a library has a symbol.
pub fn has_symbol(library: &Library, name: &str) -> bool {
    // SAFETY: the address is not used.
    unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok()
}

/// A table of functions that return a code, with the types of `cudarc`'s bindings of the same name.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident, $sys:path, $code:ident; $($name:ident($($ty:ty),*);)*) => {
        $(#[$doc])*
        #[allow(non_snake_case, reason = "the names are those of CUDA")]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($ty),*) -> $crate::sys::cuda::load::Code,)*
        }

        impl $table {
            /// Finds every function; else the names of those that the library lacks.
            pub fn resolve(library: &libloading::Library) -> Result<$table, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(
                    const _: unsafe fn($($ty),*) -> $code = {
                        use $sys as bindings;
                        bindings::$name
                    };
                    // SAFETY: the signature is that of the library's documented function of this name, as the
                    // constant above checks against the bindings; its code is a 32-bit number.
                    #[allow(non_snake_case, reason = "as above")]
                    let $name = match unsafe {
                        library.get::<unsafe extern "C" fn($($ty),*) -> $crate::sys::cuda::load::Code>(stringify!($name).as_bytes())
                    } {
                        Ok(symbol) => Some(*symbol),
                        Err(_) => {
                            missing.push(stringify!($name));
                            None
                        }
                    };
                )*
                let table = (|| Some($table { $($name: $name?,)* }))();
                table.ok_or(missing)
            }
        }
    };
}
pub(super) use functions;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_with_the_loaders_words() {
        let e = open(OsStr::new("/nowhere/libcuda.so.1")).err().unwrap();
        assert!(e.contains("/nowhere/libcuda.so.1"), "{e}");
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error() {
        let path = std::env::temp_dir().join(format!("torsh-not-a-library-{}.so", std::process::id()));
        std::fs::write(&path, b"text").unwrap();
        let e = open(path.as_os_str()).err().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(e.contains("torsh-not-a-library"), "{e}");
    }
}
