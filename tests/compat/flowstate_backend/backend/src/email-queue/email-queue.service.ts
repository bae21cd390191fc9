// Only the lines that the patch changes, among others.
import { InjectQueue } from '@nestjs/bull';
import { Injectable, Optional } from '@nestjs/common';
import { Queue } from 'bull';

@Injectable()
export class EmailQueueService {
  private useQueue = false;
  private queueErrorCount = 0;
  private readonly MAX_QUEUE_ERRORS = 3; // Disable queue after 3 consecutive errors

  constructor(@Optional() @InjectQueue('email') private readonly emailQueue: Queue | null) {
    this.useQueue = this.emailQueue !== null;
  }
}
