"""objdump's and clang's output as text, by hand, against golden values and against what gcc does here."""

import subprocess

import pytest

from runner.code.assembly import OBJDUMP_FLAGS, base_name, read_objdump
from runner.code.ir import canonicalize_ir, read_ir
from tests.golden import load_golden

DUMP = """
x.o:     file format elf64-x86-64


Disassembly of section .text.f:

0000000000000000 <f>:
   0:\tpush   rbp
   1:\tmov    rbp,rsp
   4:\tlea    rdi,[rip+0x0]        # b <f+0xb>
\t\t\t7: R_X86_64_PC32\t.rodata.str1.1-0x4
   b:\tcall   10 <f+0x10>
\t\t\tc: R_X86_64_PLT32\tputs-0x4
  10:\tnop    WORD PTR cs:[rax+rax*1+0x0]
  14:\tdata16 cs nop WORD PTR [rax+rax*1+0x0]
  1a:\txchg   ax,ax
  1c:\tje     10 <f+0x10>
  1e:\tmov    DWORD PTR [rip+0x0],0x0        # 28 <f+0x28>
\t\t\t20: R_X86_64_PC32\t.bss-0x8
\t\t\t24: R_X86_64_32\tcounter.0
  28:\tcall   2d <f+0x2d>
\t\t\t29: R_X86_64_PLT32\t.text.g-0x4
  2d:\tcall   0 <f>
  32:\tjmp    37 <f+0x37>
\t\t\t33: R_X86_64_PLT32\th-0x4
  37:\tjmp    QWORD PTR [rax*8+0x0]
\t\t\t3a: R_X86_64_32S\t.rodata

0000000000000000 <f.cold>:
   0:\tud2

0000000000000000 <g>:
   0:\tret
"""


def test_objdump_by_hand():
    assert read_objdump(DUMP) == {
        "f": "push rbp\nmov rbp,rsp\nlea rdi,[rip+0x0] <str>\ncall <puts>\nje L16\n"
        "mov DWORD PTR [rip+0x0],0x0 <data> <counter>\ncall <fn>\ncall <f>\njmp <h>\n"
        "jmp QWORD PTR [rax*8+0x0] <str>\nud2"
    }


@pytest.mark.parametrize(
    ("symbol", "name"), [("f", "f"), ("f.part.0", "f"), ("f.constprop.1.isra.2", "f"), (".L1", ".L1")]
)
def test_what_was_split_off_belongs_to_the_function(symbol, name):
    assert base_name(symbol) == name


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_real_objects(tmp_path, level):
    """Everything that was compiled is there, and no address or byte of it."""
    (tmp_path / "x.c").write_text(
        """
        #include <stdio.h>
        #include <stdlib.h>
        static int total[4]; extern int other(int);
        static __attribute__((noinline)) int sum(const int *v, int n) {
            int s = 0; for (int i = 0; i < n; i++) s += v[i] * v[i]; return s;
        }
        int report(int n) {
            if (n < 0) abort();
            for (int i = 0; i < 4; i++) total[i] += other(n + i);
            printf("sum %d of %d\\n", sum(total, 4), n);
            switch (n) { case 0: return 3; case 1: return 9; case 2: return 11; case 3: return other(4); }
            return other(total[n & 3]);
        }
        """
    )
    subprocess.run(["gcc", level, "-ffunction-sections", "-c", "x.c"], cwd=tmp_path, check=True)
    dump = subprocess.run(["objdump", *OBJDUMP_FLAGS, "x.o"], cwd=tmp_path, check=True, capture_output=True, text=True)
    found = read_objdump(dump.stdout)
    assert found.keys() == {"report", "sum"}
    text = found["report"]
    assert "<printf>" in text and "<str>" in text and "<data>" in text and "<other>" in text and "<abort>" in text
    assert "nop" not in text and "#" not in text and "\t" not in text and "+0x0>" not in text
    assert all(line[0].isalpha() for line in text.splitlines())


def test_ir_equals_the_golden_text():
    golden = load_golden("contrabin_text")
    assert [canonicalize_ir(text) for text in golden["ir"].tolist()] == golden["ir_canon"].tolist()


MODULE = """; ModuleID = 'x.c'
source_filename = "x.c"

@.str = private constant [3 x i8] c"a;b", align 1

; Function Attrs: nounwind
define dso_local i32 @f(i32 noundef %0) local_unnamed_addr #0 !dbg !7 {
  %2 = alloca i32, align 4
  store i32 %0, i32* %2, align 4, !tbaa !3
  br label %3, !llvm.loop !11

3:                                                ; preds = %1
  %4 = call i32 @g(i8* getelementptr ([3 x i8], [3 x i8]* @.str, i64 0)) #2, !dbg !9
  ret i32 %4
}

declare i32 @g(i8*) #1

define internal void @"odd name"() {
  ret void
}

attributes #0 = { nounwind }
!3 = !{!4, !4, i64 0}
"""


def test_ir_by_function():
    assert read_ir(MODULE) == {
        "f": "define dso_local i32 @f(i32 noundef %0) local_unnamed_addr {\n  %2 = alloca i32\n"
        "  store i32 %0, i32* %2\n  br label %3\n3:\n"
        "  %4 = call i32 @g(i8* getelementptr ([3 x i8], [3 x i8]* @.str, i64 0))\n  ret i32 %4\n}",
        "odd name": 'define internal void @"odd name"() {\n  ret void\n}',
    }
