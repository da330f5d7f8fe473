use torsh_codegen::cpu::prims::Prim;

#[test]
fn every_primitive_that_code_can_call_is_in_the_table_of_every_level() {
    for isa in super::LEVELS {
        let table = super::table(isa);
        let mut names: Vec<&str> = table.iter().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "a name twice");
        for prim in Prim::all() {
            assert!(names.binary_search(&prim.name().as_str()).is_ok(), "{isa} lacks {}", prim.name());
        }
    }
}
