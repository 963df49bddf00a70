"""py_eureka_client as a service would use it, told what to do line by line.

Arguments: the server's URL, its own application, instance id and port. Reads commands from standard
input and answers each with a line of JSON.
"""

import asyncio
import json
import logging
import sys

from py_eureka_client.eureka_client import EurekaClient

URL, APP, INSTANCE, PORT = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])


async def main():
    logging.disable(logging.CRITICAL)
    client = EurekaClient(
        eureka_server=URL,
        app_name=APP,
        instance_id=INSTANCE,
        instance_host="127.0.0.1",
        instance_ip="127.0.0.1",
        instance_port=PORT,
        renewal_interval_in_secs=1,
        duration_in_secs=3,
        metadata={"kind": "python & <co>"},
    )
    await client.start()
    print(json.dumps("started"), flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        answer = True
        if command == "see":
            app = client.applications.get_application(words[0])
            answer = sorted(one.instanceId for one in app.up_instances)
        elif command == "out":
            await client.status_update("OUT_OF_SERVICE")
        elif command == "in":
            await client.delete_status_override()
        elif command == "stop":
            await client.stop()
        print(json.dumps(answer), flush=True)
        if command == "stop":
            break


asyncio.run(main())
