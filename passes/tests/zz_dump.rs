#[test]
fn dump() {
    let Ok(path) = std::env::var("TIR") else { return };
    let src = std::fs::read_to_string(path).unwrap();
    let g = torsh_ir::text::parse(&src).unwrap();
    let o = torsh_passes::Options::default();
    let p = torsh_passes::compile(&g, &o).unwrap();
    println!("{}", torsh_ir::text::program(&p));
    println!("{:?}", p.stats);
    p.verify().unwrap();
}
