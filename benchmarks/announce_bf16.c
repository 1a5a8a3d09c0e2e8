/* Tells a program of AVX512-BF16 where the processor executes it but the hypervisor leaves it out of CPUID leaf 7.1:
   oneDNN then uses the instructions instead of emulating them. On a processor without them the program dies of SIGILL.

   cc -O2 -shared -fPIC benchmarks/announce_bf16.c -o announce_bf16.so
   LD_PRELOAD=$PWD/announce_bf16.so python benchmarks/families.py --dtypes bf16

   Linux, x86-64: arch_prctl makes every CPUID instruction fault, and the fault is answered here. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define AVX512_BF16 (1u << 5) /* of EAX, leaf 7, subleaf 1 */

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) { /* not CPUID: a fault like any other */
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    uint32_t leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(subleaf));
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && subleaf == 0 && a < 1) a = 1; /* there is a subleaf 1 */
    if (leaf == 7 && subleaf == 1) a |= AVX512_BF16;
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void announce(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
}
