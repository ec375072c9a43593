/* The only program in the images of the take-over fixture: small, without libc, so that the fixture stays small.

   Each argument is one step:
     print:TEXT         write TEXT and a newline to stdout
     error:TEXT         write TEXT and a newline to stderr
     append:PATH=TEXT   append TEXT and a newline to the file
     cat:PATH           copy the file to stdout
     sleep:SECONDS      wait
     exit:STATUS        end with this status

   gcc -Os -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -Wl,--build-id=none -s */

enum { READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, NANOSLEEP = 35, EXIT = 60 };
enum { APPEND_AND_CREATE = 02000 | 0100 | 01 };

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static const char *after(const char *step, const char *verb) {
    while (*verb && *step == *verb) step++, verb++;
    return *verb ? 0 : step;
}

static long number(const char *digits) {
    long value = 0;
    for (; *digits >= '0' && *digits <= '9'; digits++) value = value * 10 + *digits - '0';
    return value;
}

static void line(int descriptor, char *text) {
    long length = 0;
    while (text[length]) length++;
    /* One write for the whole line: the NUL at its end becomes the newline, and is put back. */
    text[length] = '\n';
    call(WRITE, descriptor, (long)text, length + 1);
    text[length] = 0;
}

static void fail(const char *step) {
    line(2, (char *)step);
    call(EXIT, 99, 0, 0);
}

static void run(char *step) {
    const char *rest;
    if ((rest = after(step, "print:"))) line(1, (char *)rest);
    else if ((rest = after(step, "error:"))) line(2, (char *)rest);
    else if ((rest = after(step, "append:"))) {
        char *text = (char *)rest;
        while (*text && *text != '=') text++;
        *text = 0;
        long file = call(OPEN, (long)rest, APPEND_AND_CREATE, 0644);
        if (file < 0) fail(step);
        line(file, text + 1);
        call(CLOSE, file, 0, 0);
        *text = '=';
    } else if ((rest = after(step, "cat:"))) {
        char block[512];
        long file = call(OPEN, (long)rest, 0, 0), count;
        if (file < 0) fail(step);
        while ((count = call(READ, file, (long)block, sizeof block)) > 0) call(WRITE, 1, (long)block, count);
        call(CLOSE, file, 0, 0);
    } else if ((rest = after(step, "sleep:"))) {
        long duration[2] = {number(rest), 0};
        call(NANOSLEEP, (long)duration, 0, 0);
    } else if ((rest = after(step, "exit:"))) call(EXIT, number(rest), 0, 0);
    else fail(step);
}

void begin(long *stack) {
    long count = stack[0];
    for (long index = 1; index < count; index++) run((char *)stack[1 + index]);
    call(EXIT, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
