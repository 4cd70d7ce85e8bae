"""One counted turn of a load program: so many tasks repeat a step, for so long.

Imported by the load programs, which run with the interpreter of a peer: nothing but the standard library here.
"""

import resource
import time


async def counted(step, weight, tasks, seconds, run_tasks):
    """Repeat `step` in `tasks` tasks at once, a while to warm up and `seconds` to count; return the sample."""
    await _repeat(step, weight, tasks, seconds / 5, run_tasks)
    return await _repeat(step, weight, tasks, seconds, run_tasks)


async def _repeat(step, weight, tasks, lasting, run_tasks):
    done, end = 0, time.perf_counter() + lasting

    async def job():
        nonlocal done
        while time.perf_counter() < end:
            await step()
            done += weight

    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    await run_tasks([job] * tasks)
    after, lasted = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begin
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"rate": done / lasted, "us": used / done * 1e6, "mib": after.ru_maxrss / 1024}
