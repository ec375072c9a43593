def main() -> None:
    import time,os,sys
    print("python main", open('/proc/uptime').read())
    import gc
    try:
        import google._upb._message
    except Exception as e: print("upb", e)
    def T(name,f):
        t=time.monotonic(); r=f(); print(name, round((time.monotonic()-t)*1e3,1),"ms",flush=True); return r
    T("pb2", lambda: __import__('protos.tether.v1.sandbox_pb2'))
    T("hpack", lambda: __import__('hpack'))
    T("ctypes", lambda: __import__('ctypes'))
    T("json", lambda: __import__('json'))
    T("selectors", lambda: __import__('selectors'))
    try:
        trio = T("trio", lambda: __import__('trio'))
        async def child(ev): ev.set()
        async def m():
            r,w=os.pipe(); os.set_blocking(r,False)
            async with trio.open_nursery() as n:
                for rounds in range(3):
                    t=time.monotonic()
                    for _ in range(300):
                        os.write(w,b'x'); await trio.lowlevel.wait_readable(r); os.read(r,1)
                        ev=trio.Event(); n.start_soon(child,ev); await ev.wait()
                    print("trio per call: wait_readable + spawn + event", (time.monotonic()-t)/300*1e6,"us",flush=True)
        trio.run(m)
    except ImportError as e: print(e)
    import select
    r,w=os.pipe(); ep=select.epoll(); ep.register(r,1)
    class C:
        def __init__(s): s.cb=None
    async def coro(): return 1
    for rounds in range(3):
        t=time.monotonic()
        for _ in range(300):
            os.write(w,b'x'); 
            for fd,e in ep.poll(): os.read(r,1)
            c=coro()
            try: c.send(None)
            except StopIteration as e: pass
        print("selector per call", (time.monotonic()-t)/300*1e6,"us",flush=True)
    os.system("/bin/busybox free; /bin/busybox poweroff -f")
