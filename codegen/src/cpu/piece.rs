//! Machine code of one kernel as data, for a file: its bytes, and where they want addresses, by name.
//!
//! A module of Cranelift's that places nothing. What is recorded is what `cranelift-jit` would place: the same function,
//! compiled by the same [`super::emit`] for the same target.

use super::{Emitted, Made, Options, Prim, emit};
use cranelift::codegen::Context;
use cranelift::codegen::binemit::Reloc;
use cranelift::codegen::control::ControlPlane;
use cranelift::codegen::ir::Signature;
use cranelift::codegen::isa::{OwnedTargetIsa, TargetIsa};
use cranelift::module::{
    DataDescription, DataId, FuncId, Linkage, Module, ModuleDeclarations, ModuleError, ModuleReloc, ModuleRelocTarget,
    ModuleResult,
};
use std::collections::HashMap;
use torsh_ir::kernel::Kernel;
use torsh_ir::{Error, Result};

/// Every function of a piece begins at a multiple of this.
pub const PIECE_ALIGN: usize = 64;

/// Code of a kernel: its function at the first byte, the vector functions that it calls behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Bytes, with zeros where an address belongs.
    pub code: Vec<u8>,
    /// Where addresses belong: whole ones, of 8 bytes, in ascending order.
    pub fixes: Vec<Fix>,
    /// What a caller must know beside the code.
    pub made: Made,
}

/// A place in code that wants an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fix {
    /// Offset of the 8 bytes.
    pub at: u32,
    /// Whose address.
    pub to: To,
}

/// What an address in code is that of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// A primitive.
    Prim(Prim),
    /// The function of the same piece at this offset.
    Own(u32),
}

/// Compiles a kernel into a piece.
///
/// Errors: `Compile`, also for code with references of another kind than whole addresses of primitives and vector
/// functions, which x86-64 code has none of.
pub fn piece(isa: &OwnedTargetIsa, ctx: &mut Context, kernel: &Kernel, options: &Options) -> Result<Piece> {
    let mut recorder = Recorder { isa: isa.clone(), declarations: ModuleDeclarations::default(), bodies: Vec::new() };
    let emitted = emit(&mut recorder, ctx, "kernel", kernel, options)?;
    let made = Made { schedule: emitted.schedule, row_block: emitted.row_block, scratch_bytes: emitted.scratch_bytes };
    recorder.join(&emitted, made)
}

struct Body {
    func: FuncId,
    bytes: Vec<u8>,
    relocs: Vec<ModuleReloc>,
}

struct Recorder {
    isa: OwnedTargetIsa,
    declarations: ModuleDeclarations,
    bodies: Vec<Body>,
}

impl Recorder {
    fn join(self, emitted: &Emitted, made: Made) -> Result<Piece> {
        let by_name: HashMap<String, Prim> = emitted.prims.iter().map(|&p| (p.name(), p)).collect();
        let mut starts = HashMap::new();
        let mut code = Vec::new();
        for body in &self.bodies {
            code.resize(code.len().next_multiple_of(PIECE_ALIGN), 0);
            starts.insert(body.func, code.len());
            code.extend_from_slice(&body.bytes);
        }
        if starts.get(&emitted.func) != Some(&0) {
            return Err(Error::internal("the function of a kernel is not the first of its piece"));
        }
        let offset = |at: usize| u32::try_from(at).map_err(|_| Error::compile("a kernel with too much code"));
        let mut fixes = Vec::new();
        for body in &self.bodies {
            for reloc in &body.relocs {
                let ModuleRelocTarget::User { namespace: 0, index } = reloc.name else {
                    return Err(Error::compile(format!("machine code that refers to {}", reloc.name)));
                };
                if reloc.kind != Reloc::Abs8 || reloc.addend != 0 {
                    return Err(Error::compile(format!("machine code with a reference of kind {}", reloc.kind)));
                }
                let func = FuncId::from_u32(index);
                let name = self.declarations.get_function_decl(func).linkage_name(func);
                let to = match (starts.get(&func), by_name.get(&*name)) {
                    (Some(&start), _) => To::Own(offset(start)?),
                    (None, Some(&prim)) => To::Prim(prim),
                    (None, None) => return Err(Error::compile(format!("machine code that refers to {name}"))),
                };
                fixes.push(Fix { at: offset(starts[&body.func] + reloc.offset as usize)?, to });
            }
        }
        fixes.sort_by_key(|fix| fix.at);
        Ok(Piece { code, fixes, made })
    }
}

fn refused(what: &str) -> ModuleError {
    ModuleError::Backend(std::io::Error::other(format!("{what} cannot be recorded")).into())
}

impl Module for Recorder {
    fn isa(&self) -> &dyn TargetIsa {
        &*self.isa
    }

    fn declarations(&self) -> &ModuleDeclarations {
        &self.declarations
    }

    fn declare_function(&mut self, name: &str, linkage: Linkage, signature: &Signature) -> ModuleResult<FuncId> {
        self.declarations.declare_function(name, linkage, signature).map(|(id, _)| id)
    }

    fn declare_anonymous_function(&mut self, signature: &Signature) -> ModuleResult<FuncId> {
        self.declarations.declare_anonymous_function(signature)
    }

    fn declare_data(&mut self, name: &str, linkage: Linkage, writable: bool, tls: bool) -> ModuleResult<DataId> {
        self.declarations.declare_data(name, linkage, writable, tls).map(|(id, _)| id)
    }

    fn declare_anonymous_data(&mut self, writable: bool, tls: bool) -> ModuleResult<DataId> {
        self.declarations.declare_anonymous_data(writable, tls)
    }

    fn define_function_with_control_plane(
        &mut self,
        func: FuncId,
        ctx: &mut Context,
        control: &mut ControlPlane,
    ) -> ModuleResult<()> {
        let made = ctx.compile(&*self.isa, control)?;
        if made.buffer.alignment as usize > PIECE_ALIGN {
            return Err(refused("code of such alignment"));
        }
        let bytes = made.code_buffer().to_vec();
        let made = ctx.compiled_code().ok_or_else(|| refused("code that was not kept"))?;
        let relocs = made.buffer.relocs().iter().map(|r| ModuleReloc::from_mach_reloc(r, &ctx.func, func)).collect();
        self.bodies.push(Body { func, bytes, relocs });
        Ok(())
    }

    fn define_function_bytes(
        &mut self,
        func: FuncId,
        alignment: u64,
        bytes: &[u8],
        relocs: &[ModuleReloc],
    ) -> ModuleResult<()> {
        if alignment > PIECE_ALIGN as u64 {
            return Err(refused("code of such alignment"));
        }
        self.bodies.push(Body { func, bytes: bytes.to_vec(), relocs: relocs.to_vec() });
        Ok(())
    }

    fn define_data(&mut self, _: DataId, _: &DataDescription) -> ModuleResult<()> {
        Err(refused("data"))
    }
}
